"""What co-training is compared with: one process that runs its networks one after the other.

The peers get their batches ready made, so that only networks, assignment and learning are timed;
ours pays for its feed as well.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assigners import Candidates, CostTable, GroundTruths, HardAssignment, PAAAssigner, Priors, Step
from orchestrator.batch import Batch, unpack_gts, unpack_images
from orchestrator.building import build_optimizer, register_mmdet
from orchestrator.config import RunConfig
from orchestrator.datasets import PreparedData, build_dataset
from orchestrator.feed import Feeder, batch_order
from orchestrator.iteration import cotrain_iteration
from orchestrator.local import LocalNetwork
from orchestrator.step import NetworkSpec

READY_BATCHES = 16


def make_batches(config: RunConfig, data: PreparedData) -> list[Batch]:
    """The run's first batches."""
    dataset = build_dataset(config.data, data.train, data.classes, train=True)
    feeder = Feeder(dataset, batch_order(config, dataset), seed=config.seed, workers=0)
    return [feeder.batch(position) for position in range(READY_BATCHES)]


@functools.cache
def _mmdet_head(num_classes: int) -> Any:
    """mmdet's head, for its ``paa_reassign``; made once, so that no iteration pays for it."""
    from mmdet.models.dense_heads.paa_head import PAAHead

    return PAAHead(num_classes=num_classes, in_channels=32, feat_channels=32, stacked_convs=0)


class LoopMixturePAA(PAAAssigner):
    """PAA as mmdet assigns: one scikit-learn mixture per GT, in a Python loop."""

    def assign(
        self,
        table: CostTable,
        candidates: Candidates,
        priors: Priors,
        gts: GroundTruths,
        *,
        num_classes: int,
        step: Step | None = None,
        live: CostTable | None = None,
    ) -> HardAssignment:
        """Labels of mmdet's ``paa_reassign``, image by image."""
        head = _mmdet_head(num_classes)
        assert priors.boxes is not None
        anchors = list(priors.boxes.split(priors.level_sizes))
        labels = torch.full_like(priors.valid, num_classes, dtype=torch.int64)
        owner = torch.full_like(labels, -1)
        owner[candidates.image, candidates.prior] = candidates.gt
        first = 0
        for image, count in enumerate(gts.counts):
            rows = (candidates.image == image).nonzero().flatten()
            rows = rows[candidates.prior[rows].argsort()]
            prior, gt = candidates.prior[rows], candidates.gt[rows]
            before = labels[image].clone()
            before[prior] = gts.labels[gt]
            weights = torch.ones(len(before)), torch.ones(len(before), 4)
            found = head.paa_reassign(
                table.cost[rows], before, *weights, prior, gt - first, anchors
            )
            labels[image] = found[0]
            first += count
        positive = (labels != num_classes).flatten().nonzero().flatten()
        pos_gt = owner.flatten()[positive]
        return HardAssignment(
            labels=labels,
            label_weights=priors.valid.float(),
            pos_inds=positive,
            pos_gt=pos_gt,
            box_targets=gts.boxes[pos_gt],
        )


class InProcessCoLAD:
    """The run's networks in this process, one after the other, with all threads for each."""

    def __init__(
        self, config: RunConfig, data: PreparedData, batches: Sequence[Batch], *, loop_fit: bool
    ) -> None:
        self.batches, self.done = batches, 0
        self.networks = [
            LocalNetwork(
                NetworkSpec(
                    name=name,
                    config=config,
                    data=data,
                    iterations_per_epoch=64,
                    max_iterations=100_000,
                )
            )
            for name in config.networks
        ]
        if loop_fit:
            for network in self.networks:
                network.network.assigner = LoopMixturePAA()

    def run(self, iterations: int) -> list[float]:
        """Seconds of each iteration."""
        seconds = []
        for _ in range(iterations):
            start = time.perf_counter()
            step = Step(iteration=self.done, max_iterations=100_000)
            batch = self.batches[self.done % len(self.batches)]
            cotrain_iteration([batch], self.networks, step)
            self.done += 1
            seconds.append(time.perf_counter() - start)
        return seconds


@functools.cache
def _batched_lad_head() -> type[Any]:
    """mmdet's LAD head with our mixture fit, of all GTs of the batch at once."""
    from mmdet.models.dense_heads import LADHead

    class BatchedLADHead(LADHead):  # type: ignore[misc, unused-ignore]
        """Matching, costs and targets stay mmdet's."""

        def get_label_assignment(
            self, cls: Any, boxes: Any, ious: Any, gts: Any, metas: Any, ignored: Any = None
        ) -> tuple[Any, ...]:
            self.seen: list[tuple[Any, ...]] = []
            found = super().get_label_assignment(cls, boxes, ious, gts, metas, ignored)
            _, weights, targets, box_weights, *_ = found
            labels = _batched_labels(self, self.seen, gts).flatten()
            positive = (labels < self.num_classes).nonzero().flatten()
            anchors = torch.cat([level for *_, levels in self.seen for level in levels])
            count = len(positive)
            return labels, weights, targets, box_weights, positive, anchors[positive], count

        def paa_reassign(self, *image: Any) -> tuple[Any, ...]:
            """Only keeps what one image's fit would need."""
            losses, label, weight, box_weight, prior, gt, anchors = image
            self.seen.append((losses, prior, gt, anchors))
            return label, weight, box_weight, len(prior)

    return BatchedLADHead


def _batched_labels(head: Any, seen: Sequence[tuple[Any, ...]], instances: Any) -> Tensor:
    """(B, A) labels from the images' losses, priors and GTs of the candidates, and anchors."""
    gts = GroundTruths.from_lists(
        [image.bboxes for image in instances],
        [image.labels for image in instances],
        [(1, 1)] * len(instances),  # not used
    )
    sizes = tuple(len(level) for level in seen[0][3])
    level = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    points = torch.zeros(len(level), 2)  # not used, as strides
    valid = torch.ones(len(seen), len(level), dtype=torch.bool)
    priors = Priors(
        points=points, strides=points[:, 0], level=level, valid=valid, level_sizes=sizes
    )
    first = [sum(gts.counts[:image]) for image in range(len(seen))]
    gt = torch.cat([image[2] + offset for image, offset in zip(seen, first)])
    prior = torch.cat([image[1] for image in seen])
    gt, order = gt.sort(stable=True)
    prior = prior[order]
    candidates = Candidates(image=gts.image[gt], gt=gt, prior=prior, level=level[prior])
    table = CostTable(cost=torch.cat([image[0] for image in seen])[order].detach())
    assigner = PAAAssigner(topk=head.topk)
    return assigner.assign(table, candidates, priors, gts, num_classes=head.num_classes).labels


class MMDetLAD:
    """mmdet's ``LAD`` detector: teacher and student in one module, one after the other.

    Args:
        loop_fit: mmdet's mixture fit per GT; else ours, of all GTs at once.
    """

    def __init__(
        self,
        config: RunConfig,
        student: dict[str, Any],
        teacher: dict[str, Any],
        batches: Any,
        *,
        loop_fit: bool,
    ) -> None:
        from mmdet.registry import MODELS

        register_mmdet()
        head = dict(student["bbox_head"], type="LADHead")
        assigning = "LADHead" if loop_fit else _batched_lad_head()
        model = dict(
            student,
            type="LAD",
            bbox_head=head,
            teacher_backbone=teacher["backbone"],
            teacher_neck=teacher["neck"],
            teacher_bbox_head=dict(teacher["bbox_head"], type=assigning),
        )
        self.detector: Any = MODELS.build(model)
        self.detector.train()
        name = next(name for name, network in config.networks.items() if network.learner)
        self.optimizer = build_optimizer(self.detector, config.networks[name], config.train, name)
        self.clip = config.train.clip_grad
        self.inputs = [self._prepare(batch) for batch in batches]
        self.done = 0

    def _prepare(self, batch: Batch) -> tuple[Tensor, Any]:
        """Normalised images and mmdet's samples."""
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        gts = unpack_gts(batch, torch.device("cpu"))
        samples = []
        for image, meta in enumerate(batch.metas):
            mine = gts.image == image
            instances = InstanceData(bboxes=gts.boxes[mine], labels=gts.labels[mine])
            sample = DetDataSample(metainfo=dict(meta))
            sample.gt_instances = instances
            sample.ignored_instances = InstanceData(bboxes=gts.boxes[:0], labels=gts.labels[:0])
            samples.append(sample)
        data = dict(inputs=unpack_images(batch), data_samples=samples)
        processed = self.detector.data_preprocessor(data, training=True)
        return processed["inputs"], processed["data_samples"]

    def run(self, iterations: int) -> list[float]:
        """Seconds of each iteration."""
        return [self._iteration() for _ in range(iterations)]

    def _iteration(self) -> float:
        start = time.perf_counter()
        images, samples = self.inputs[self.done % len(self.inputs)]
        loss, _ = self.detector.parse_losses(self.detector.loss(images, samples))
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.detector.parameters(), self.clip)
        self.optimizer.step()
        self.done += 1
        return time.perf_counter() - start
