"""The soft-label part of a step: who is imitated in which image, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from assigners.types import Candidates, CostTable, DensePredictions, GroundTruths, Priors
from orchestrator import exchange
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.exchange import PackedTable
from orchestrator.switching import SwitchRule, choose


class SoftTeaching:
    """How one learner imitates the others.

    Under ``fixed`` it imitates the teacher in every image. Otherwise it imitates, per image, the
    network with the best indicator over all candidates of that image; none if that is itself or if
    the image has no candidate.

    Args:
        reader: the learner's name.
        config: the run; it has ``soft_labels``.
    """

    def __init__(self, reader: str, config: RunConfig) -> None:
        assert config.soft_labels is not None
        self.reader, self.settings = reader, config.soft_labels
        self.fixed = config.switch.teacher
        self.rule = SwitchRule(
            criterion=config.switch.criterion, scope="image", teacher=config.switch.teacher
        )

    def images_by_teacher(
        self, costs: Mapping[str, CostTable], candidates: Candidates, gts: GroundTruths
    ) -> dict[str, list[int]]:
        """Other networks, and the images of the batch in which each of them is imitated.

        Args:
            costs: of all networks, by name, in the order that breaks ties.
        """
        if self.fixed is not None:
            return {self.fixed: list(range(gts.num_images))}
        with torch.no_grad():
            choice = choose(
                costs,
                candidates,
                rule=self.rule,
                num_gts=gts.num_gts,
                num_images=gts.num_images,
            )
        found: dict[str, list[int]] = {}
        for image, network in enumerate(choice.decisions.tolist()):
            if network >= 0 and choice.names[network] != self.reader:
                found.setdefault(choice.names[network], []).append(image)
        return found

    def losses(
        self,
        tables: Sequence[PackedTable],
        images_by_teacher: Mapping[str, Sequence[int]],
        predictions: DensePredictions,
        priors: Priors,
        gts: GroundTruths,
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses, and counts for the run log. A collective call of the learner's ranks.

        Args:
            tables: of the other networks, checked.
            images_by_teacher: of the method of that name.
            predictions: the learner's, with their autograd graph.

        Raises:
            ConfigError: the quality branches of learner and teacher predict different things.
        """
        from models.soft_labels import soft_label_losses, soft_label_sums

        packed = {table.network: table.soft for table in tables}
        device = predictions.cls.device
        sums = []
        for name, images in images_by_teacher.items():
            soft = packed[name]
            assert soft is not None, f"network {name!r} sent no soft labels"
            teacher = exchange.unpack_soft(soft, images, device)
            rows = None if len(images) == gts.num_images else torch.tensor(images, device=device)
            try:
                sums.append(soft_label_sums(predictions, teacher, priors, gts, self.settings, rows))
            except ValueError as error:
                raise ConfigError(f"network {self.reader!r} imitates {name!r}: {error}") from error
        stats = {
            "soft_images": float(sum(part.num_images for part in sums)),
            "soft_boxes": float(sum(part.num_selected for part in sums)),
        }
        return soft_label_losses(sums, predictions, self.settings), stats
