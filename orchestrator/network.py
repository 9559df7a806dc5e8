"""One network (or one rank of it): forward, costs, assignment, loss, optimizer step, evaluation.

``Network`` knows nothing of Ray. ``LocalNetwork`` runs it in this process and ``NetworkActor`` in a
Ray actor; both call the same methods, so both give the same weights, bit for bit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assigners import build_assigner
from assigners.types import (
    Assignment,
    CostTable,
    HardAssignment,
    Step,
)
from orchestrator import exchange
from orchestrator.batch import Batch, unpack_gts, unpack_images
from orchestrator.building import (
    build_detector,
    build_optimizer,
    build_schedulers,
    import_custom,
    network_seed,
)
from orchestrator.config import RunConfig
from orchestrator.datasets import build_dataset
from orchestrator.errors import (
    ConfigError,
    NonFiniteCostError,
    NonFiniteLossError,
    StepOrderError,
)
from orchestrator.evaluation import Detections
from orchestrator.exchange import PackedTable
from orchestrator.grid import GridDescription, build_view
from orchestrator.prediction import predict_dataset
from orchestrator.ranks import RankGroup
from orchestrator.rehearsal import rehearse
from orchestrator.soft_labels import SoftTeaching
from orchestrator.step import NetworkSpec, Pending, StepResult, sample_pairs
from orchestrator.switching import Choice, SwitchRule, choose
from orchestrator.torch_state import (
    RngState,
    autocast,
    evaluating,
    scheduler_state,
    sound_convolutions,
)


class _Forward(nn.Module):
    """Images to raw head outputs: the part of a detector that DistributedDataParallel must wrap."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, inputs: Tensor) -> Any:
        detector: Any = self.detector
        return detector.bbox_head(detector.extract_feat(inputs))


class Network:
    """One rank of a network.

    Args:
        spec: what to build.
        group: the ranks of this network; None for one rank.

    Raises:
        ConfigError, ModelError, CheckpointError, ResourceError: before any training.
    """

    def __init__(self, spec: NetworkSpec, group: RankGroup | None = None) -> None:
        config = spec.config
        torch.set_num_threads(config.resources.threads)
        import_custom(config.custom_imports)
        self.spec, self.name, self.rank, self.group = spec, spec.name, spec.rank, group
        self.settings = config.networks[spec.name]
        self.learner = self.settings.learner
        self.device = torch.device(spec.device)
        self.assigner = _build_assigner(config.assigner)
        self.rule = _switch_rule(config, self.assigner.default_scope)
        self._others_read = spec.name in config.readable and len(config.networks) > 1
        self._reads_others = config.switch.criterion != "self"
        self._computes_costs = spec.name in config.readable or not self._reads_others
        soft, imitates = config.soft_labels, spec.name != config.switch.teacher
        self._soft = None if soft is None or not imitates else SoftTeaching(spec.name, config)
        self._hard_labels = soft is None or soft.hard_labels
        classes = spec.data.classes
        self.detector, self.model_config = build_detector(
            spec.name, self.settings, len(classes), config.seed, classes=classes
        )
        self._head: Any = self.detector.get_submodule("bbox_head")
        self._view = build_view(spec.name, config, self._head, len(classes))
        self._check_assignment_kind()
        self._pending: Pending | None = None
        self._val_dataset: Any = None
        self._rng = RngState(network_seed(config.seed, spec.name, spec.rank), self.device)
        self._place()
        rehearse(self.name, self.detector, self.device, predicts=self.learner)

    # -- building -------------------------------------------------------------------------------

    def _place(self) -> None:
        """Move to the device; learners get optimizer, schedules, scaler and gradient exchange."""
        detector: Any = self.detector
        detector.to(self.device)
        self._forward: nn.Module = _Forward(detector)
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.spec.config.train.precision == "fp16"
        )
        if not self.learner:
            detector.requires_grad_(False)
            detector.eval()
            return
        detector.train()
        train = self.spec.config.train
        self.optimizer = build_optimizer(detector, self.settings, train, self.name)
        self.schedulers = build_schedulers(
            self.optimizer,
            train.param_scheduler
            if self.settings.param_scheduler is None
            else self.settings.param_scheduler,
            field="train.param_scheduler"
            if self.settings.param_scheduler is None
            else f"networks.{self.name}.param_scheduler",
            iterations_per_epoch=self.spec.iterations_per_epoch,
            max_iterations=self.spec.max_iterations,
        )
        if self.group is not None:
            self._forward = self.group.wrap(self._forward, self.device)

    def _check_assignment_kind(self) -> None:
        if not self.learner:
            return
        accepted = self._head.assignment_kind
        if accepted != self.assigner.assignment_kind:
            raise ConfigError(
                f"networks.{self.name}: head {type(self._head).__name__} learns from a {accepted} "
                f"assignment but assigner {self.spec.config.assigner['type']!r} makes a "
                f"{self.assigner.assignment_kind} one"
            )

    def describe(self) -> GridDescription:
        """The prior grid, for comparison with the other networks."""
        return self._view.describe(self.model_config)

    # -- the step -------------------------------------------------------------------------------

    def begin_step(self, batch: Batch, step: Step) -> PackedTable | None:
        """Forward pass and this network's costs.

        Called by: the trainer, for all networks at once. Leaves pending (learners): predictions
        with their autograd graph, until ``finish_step``.

        Args:
            batch: the shard's images and GTs, equal for all networks.
            step: where training stands.

        Returns:
            The costs for the other networks, or None where nobody reads them.

        Raises:
            StepOrderError: the previous step of this learner was not finished.
        """
        if self._pending is not None:
            raise StepOrderError(
                f"network {self.name!r}: begin_step for batch {batch.batch_id} before finish_step "
                f"of batch {self._pending.batch.batch_id}"
            )
        started = time.perf_counter()
        with self._arithmetic():
            pending = self._run_forward(batch, step)
        pending.seconds["forward"] = time.perf_counter() - started
        packed = self._pack(pending) if self._others_read else None
        pending.ended = time.perf_counter()
        if self.learner:
            self._pending = pending
        return packed

    def _run_forward(self, batch: Batch, step: Step) -> Pending:
        gts = unpack_gts(batch, self.device)
        context = contextlib.ExitStack()
        if self.group is not None and self.learner and not step.synchronise:
            context.enter_context(self.group.no_sync(self._forward))
        with torch.set_grad_enabled(self.learner):
            inputs, metas = self._preprocess(batch)
            with autocast(self.spec.config.train.precision, self.device):
                outs = self._forward(inputs)
            priors, predictions = self._view(outs, metas)
            with torch.no_grad():
                candidates = self.assigner.candidates(priors, gts)
            table = None
            if self._computes_costs:
                table = self.assigner.costs(predictions, candidates, gts)
        digest = exchange.candidates_digest(candidates) if self._reads_others else ""
        return Pending(
            batch=batch,
            step=step,
            gts=gts,
            priors=priors,
            outs=outs,
            predictions=predictions,
            candidates=candidates,
            table=table,
            digest=digest,
            context=context,
        )

    def _preprocess(self, batch: Batch) -> tuple[Tensor, list[dict[str, Any]]]:
        """Normalised, padded images (B, 3, H, W) and mmdet's image metas."""
        from mmdet.structures import DetDataSample

        samples = [DetDataSample(metainfo=dict(meta)) for meta in batch.metas]
        preprocessor: Any = self.detector.get_submodule("data_preprocessor")
        data = dict(inputs=unpack_images(batch), data_samples=samples)
        processed = preprocessor(data, training=True)
        return processed["inputs"], [s.metainfo for s in processed["data_samples"]]

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """This network's random state and, where needed, convolutions without oneDNN."""
        with self._rng.active(), sound_convolutions(self.spec.config.train.precision, self.device):
            yield

    def _pack(self, pending: Pending) -> PackedTable:
        assert pending.table is not None
        return exchange.pack(
            pending.table,
            network=self.name,
            batch_id=pending.batch.batch_id,
            digest=pending.digest,
            soft=None if self.spec.config.soft_labels is None else pending.predictions,
        )

    def finish_step(
        self, tables: Sequence[PackedTable], *, want_sample: bool = False
    ) -> StepResult:
        """Choose a teacher, assign, learn.

        Called by: the trainer, for learners only. Waits for: ``begin_step`` of every network whose
        table is in ``tables`` (Ray resolves them first).

        Args:
            tables: costs of the *other* networks that this one reads.
            want_sample: also return sampled pairs for the run log.

        Raises:
            StepOrderError: no step was begun.
            CandidateMismatchError, NonFiniteCostError: a table does not fit or is not finite.
            NonFiniteLossError: the loss is not finite; the weights are untouched.
        """
        started = time.perf_counter()
        pending, self._pending = self._pending, None
        if pending is None:
            raise StepOrderError(f"network {self.name!r}: finish_step without begin_step")
        seconds = pending.seconds
        seconds["wait"] = started - pending.ended
        with self._arithmetic(), pending.context:
            try:
                costs = self._read(pending, tables)
            except NonFiniteCostError as error:
                raise NonFiniteCostError(f"iteration {pending.step.iteration}: {error}") from None
            choice, chosen = self._choose(pending, costs)
            marked = time.perf_counter()
            seconds["exchange"] = marked - started
            assignment = self._assign(pending, chosen) if self._hard_labels else None
            losses, soft_stats = self._losses(pending, assignment, tables, costs)
            now = time.perf_counter()
            seconds["assign"] = now - marked
            total = sum(losses.values())
            self._scaler.scale(total / pending.step.accumulate).backward()
            values, stats, shares = self._to_host(losses, assignment, choice)
            stats.update(soft_stats)
            self._check_losses(values, pending)
            seconds["backward"] = time.perf_counter() - now
            now = time.perf_counter()
            lr = self.optimizer.param_groups[0]["lr"]  # of this step; the schedules move on in it
            skipped = pending.step.synchronise and not self._optimizer_step()
            seconds["step"] = time.perf_counter() - now
        return StepResult(
            network=self.name,
            rank=self.rank,
            losses=values,
            lr=lr,
            num_pos=assignment.num_pos if isinstance(assignment, HardAssignment) else 0,
            num_gts=pending.gts.num_gts,
            num_images=pending.gts.num_images,
            skipped=skipped,
            taught=shares,
            stats=stats,
            seconds=seconds,
            payload_bytes=sum(table.payload_bytes for table in tables),
            sample=sample_pairs(self.spec, pending, choice, tables, assignment)
            if want_sample
            else None,
        )

    def _read(self, pending: Pending, tables: Sequence[PackedTable]) -> dict[str, CostTable]:
        """The costs of all readable networks, checked, in the order of the configuration."""
        batch_id, image_ids = pending.batch.batch_id, pending.batch.image_ids
        if pending.table is not None:  # one synchronisation
            finite = bool(torch.isfinite(pending.table.cost.detach()).all())
            exchange.check_finite("cost", finite, self.name, batch_id, image_ids)
        by_name: dict[str, CostTable] = {}
        for packed in tables:
            exchange.check(
                packed,
                reader=self.name,
                batch_id=batch_id,
                digest=pending.digest,
                image_ids=image_ids,
            )
            by_name[packed.network] = exchange.unpack(packed, self.device)
        if pending.table is not None:
            by_name[self.name] = pending.table.detach()
        return {name: by_name[name] for name in self.spec.config.readable}

    def _choose(
        self, pending: Pending, costs: Mapping[str, CostTable]
    ) -> tuple[Choice | None, CostTable]:
        """The chosen rows; every learner computes the same choice from the same tables."""
        if not self._reads_others:
            assert pending.table is not None
            return None, pending.table
        with torch.no_grad():
            choice = choose(
                costs,
                pending.candidates,
                rule=self.rule,
                num_gts=pending.gts.num_gts,
                num_images=pending.gts.num_images,
                num_levels=len(pending.priors.level_sizes),
                reducer=self.group,
            )
        return choice, choice.table

    def _assign(self, pending: Pending, chosen: CostTable) -> Assignment:
        return self.assigner.assign(
            chosen,
            pending.candidates,
            pending.priors,
            pending.gts,
            num_classes=pending.predictions.num_classes,
            step=pending.step,
            live=pending.table,
        )

    def _losses(
        self,
        pending: Pending,
        assignment: Assignment | None,
        tables: Sequence[PackedTable],
        costs: Mapping[str, CostTable],
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Losses under the assignment and from soft labels, whichever the run has, and counts."""
        predictions, priors, gts = pending.predictions, pending.priors, pending.gts
        losses: dict[str, Tensor] = {}
        if assignment is not None:
            losses |= self._head.loss_from_assignment(
                predictions, pending.outs, assignment, priors, gts, taught=self._reads_others
            )
        if self._soft is None:
            return losses, {}
        imitated = self._soft.images_by_teacher(costs, pending.candidates, gts)
        soft_losses, stats = self._soft.losses(tables, imitated, predictions, priors, gts)
        return {**losses, **soft_losses}, stats

    def _to_host(
        self, losses: Mapping[str, Tensor], assignment: Assignment | None, choice: Choice | None
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Losses, assigner and switch statistics, and shares as numbers: one synchronisation."""
        scalars: dict[str, Tensor] = {f"loss/{name}": value for name, value in losses.items()}
        if assignment is not None:
            scalars.update({f"stat/{name}": value for name, value in assignment.stats.items()})
        if choice is not None:
            for index, name in enumerate(self.spec.config.readable):
                scalars[f"share/{name}"] = choice.share[index]
                scalars[f"stat/indicator_{name}"] = choice.indicator[index]
        packed = torch.stack([value.detach().double().reshape(()) for value in scalars.values()])
        groups: dict[str, dict[str, float]] = {"loss": {}, "stat": {}, "share": {}}
        for key, number in zip(scalars, packed.tolist()):
            group, _, name = key.partition("/")
            groups[group][name] = number
        return groups["loss"], groups["stat"], groups["share"]

    def _check_losses(self, losses: Mapping[str, float], pending: Pending) -> None:
        """Stop before the optimizer sees the gradients of a loss that is not finite.

        Raises:
            NonFiniteLossError: naming network, iteration and images.
        """
        bad = {name: value for name, value in losses.items() if not np.isfinite(value)}
        if bad:
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteLossError(
                f"network {self.name!r}, iteration {pending.step.iteration}: "
                f"{', '.join(f'{name} = {value}' for name, value in bad.items())} on images "
                f"{pending.batch.image_ids} (batch {pending.batch.batch_id}); the weights are "
                "untouched. Lower train.optimizer.lr, set train.clip_grad, or look at these images"
            )

    def _optimizer_step(self) -> bool:
        """Clip, step, advance the schedules. False where fp16 skipped a non-finite gradient."""
        self._scaler.unscale_(self.optimizer)
        limit = self.spec.config.train.clip_grad
        if limit is not None:
            parameters = [p for p in self.detector.parameters() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(parameters, limit)
        scale = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        for scheduler in self.schedulers:
            scheduler.step()
        return self._scaler.get_scale() >= scale

    # -- evaluation, state ----------------------------------------------------------------------

    def predict(self, *, num_shards: int = 1) -> Detections:
        """Detections of this rank's share of the validation images."""
        if self._val_dataset is None:
            self._val_dataset = build_dataset(
                self.spec.config.data, self.spec.data.val, self.spec.data.classes, train=False
            )
        if self.group is not None:
            self.group.share_buffers(self.detector)
        with self._rng.active(), evaluating(self.detector):
            return predict_dataset(
                self.detector,
                self._val_dataset,
                batch_size=self.spec.config.evaluation.batch_size,
                device=self.device,
                shard=self.rank,
                num_shards=num_shards,
            )

    def state(self) -> dict[str, Any]:
        """Everything that decides this rank's future: plain tensors and numbers.

        Ranks other than 0 give their random state only; the rest is equal on all ranks.
        """
        if self._pending is not None:
            raise StepOrderError(f"network {self.name!r}: state asked for in the middle of a step")
        state: dict[str, Any] = {"rng": self._rng.state()}
        if self.rank == 0:
            state["model"] = self.detector.state_dict()
            if self.learner:
                state["optimizer"] = self.optimizer.state_dict()
                state["schedulers"] = [scheduler_state(s) for s in self.schedulers]
                state["scaler"] = self._scaler.state_dict()
        return state

    def load_state(self, shared: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Return to a saved moment: rank 0's ``shared`` state and this rank's ``own``."""
        self._pending = None
        self.detector.load_state_dict(shared["model"])
        if self.learner:
            self.optimizer.load_state_dict(shared["optimizer"])
            for scheduler, state in zip(self.schedulers, shared["schedulers"]):
                scheduler.load_state_dict(state)
            if shared["scaler"]:
                self._scaler.load_state_dict(shared["scaler"])
        self._rng.load(own["rng"])


def _build_assigner(config: Mapping[str, Any]) -> Any:
    try:
        return build_assigner(config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"assigner: {error}") from error


def _switch_rule(config: RunConfig, default_scope: str) -> SwitchRule:
    switch = config.switch
    return SwitchRule(
        criterion=switch.criterion, scope=switch.scope or default_scope, teacher=switch.teacher
    )
