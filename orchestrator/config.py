"""Run configuration: every field with its meaning, unit and default, as frozen dataclasses.

``config_file.load_config`` makes one of an mmengine config file. A contradictory value raises
``ConfigError`` naming the field. The ``model`` dicts stay plain dicts: their fields are mmdet's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16")
CRITERIA = ("self", "fixed", "std_mean", "fisher")
SOFT_LOSSES = ("kl", "l1", "l2")
SOFT_SELECTIONS = ("teacher_box", "anchor")
SCOPES = ("gt_level", "gt", "image", "iteration")
EVALUATION_BACKENDS = ("pycocotools", "faster")
BEST_METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_1", "AR_10", "AR_100")


LARGEST_BATCH = 1 << 16
_INFINITE = 1 << 31
"""Counts and amounts from here on are slips of the hand."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    _require(
        value in allowed, f"{name} = {value!r}: expected one of {', '.join(map(repr, allowed))}"
    )


def _positive(**fields: float | None) -> None:
    for name, value in fields.items():
        _require(
            value is None or 0 < value < _INFINITE,
            f"{name.replace('__', '.')} = {value!r}: must be greater than 0, and finite",
        )


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """One network. Its name is its key under ``networks``; teacher is a role, never a name."""

    preset: str | None = None
    """A tiny detector of ``models.presets``, by name, that ``model`` is merged over."""
    config: str | None = None
    """mmdet config whose ``model`` is inherited: path or ``mmdet::paa/paa_r50_fpn_1x_coco.py``."""
    model: dict[str, Any] = field(default_factory=dict)
    """mmdet detector fields, merged over ``preset`` or ``config`` (``_delete_=True`` replaces)."""
    learner: bool = True
    """Whether it gets gradients. A network that does not is a frozen teacher in eval mode."""
    checkpoint: str | None = None
    """Path of weights for the whole detector (mmdet's .pth). Required for a frozen teacher."""
    pretrained: str | None = "auto"
    """Path of backbone weights; ``"none"`` for random ones; ``"auto"`` for what ``model`` names."""
    optimizer: dict[str, Any] | None = None
    """Overrides ``train.optimizer`` for this network."""
    paramwise_cfg: dict[str, Any] | None = None
    """Overrides ``train.paramwise_cfg`` for this network."""
    param_scheduler: list[dict[str, Any]] | None = None
    """Overrides ``train.param_scheduler`` for this network."""
    gpus: float | None = None
    """Overrides ``resources.gpus_per_network``: 0.5 for a teacher that shares a card."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes it may run on: ``{"ray.io/accelerator-type": "T4"}``, or your own
    (``ray start --labels``); a value may be Ray's ``!x``, ``in(x, y)`` or ``!in(x, y)``."""
    resources: dict[str, float] = field(default_factory=dict)
    """What each of its ranks takes of your own resources (``ray start --resources``)."""

    def __post_init__(self) -> None:
        _require(self.gpus is None or self.gpus >= 0, f"gpus = {self.gpus}: must not be negative")
        for name, amount in self.resources.items():
            _require(
                name not in ("CPU", "GPU", "memory") and 0 < amount < math.inf,
                f"resources.{name} = {amount}: an amount greater than 0 of a resource of your own; "
                "GPUs are networks.NAME.gpus, CPUs resources.cpus_per_network",
            )
        _require(
            self.preset is None or self.config is None,
            f"preset = {self.preset!r} and config = {self.config!r} exclude each other: keep one",
        )
        _require(
            bool(self.preset or self.config or self.model),
            "one of preset, config or model must say which detector this is",
        )
        _require(
            self.learner or self.checkpoint is not None,
            "learner = False needs checkpoint = PATH: a network with random weights cannot teach",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """COCO-format data. Paths are relative to ``root``, ``root`` to the working directory."""

    root: str = ""
    """Folder of the dataset. Required, except with ``shapes``."""
    train: str = "train.json"
    """Annotation file of the training split."""
    val: str = "val.json"
    """Annotation file of the validation split."""
    images: str | None = None
    """Image folder of both splits; None looks in the usual places beneath ``root``."""
    train_images: str | None = None
    """Image folder of the training split where it has its own (COCO: ``train2017``)."""
    val_images: str | None = None
    """Image folder of the validation split where it has its own (COCO: ``val2017``)."""
    classes: list[str] | None = None
    """Class names to learn, in order; None takes all categories of the training file."""
    shapes: dict[str, Any] | None = None
    """Draw a toy dataset into ``root`` on first use: arguments of ``orchestrator.data.shapes``."""
    scale: tuple[int, int] = (1333, 800)
    """(longer, shorter) side of the network input in pixels, aspect ratio kept."""
    train_scales: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Multi-scale training: sizes between these two, each pixel as likely, instead of ``scale``."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    train_pipeline: list[dict[str, Any]] | None = None
    """mmdet transforms instead of load, resize to ``scale``, flip, pack."""
    test_pipeline: list[dict[str, Any]] | None = None
    """mmdet transforms instead of load, resize to ``scale``, pack."""
    filter_empty_gt: bool = False
    """Leave training images without boxes out (the papers' COCO setting is True)."""
    min_size: int = 0
    """Leave training images with a side below this many pixels out (COCO setting: 32)."""
    group_by_aspect: bool = False
    """Batches of images that are all wider or all taller than square (less padding)."""

    def __post_init__(self) -> None:
        _require(
            bool(self.root), "data.root is empty: give the dataset folder (--set data.root=DIR)"
        )
        _require(self.min_size >= 0, f"data.min_size = {self.min_size}: must not be negative")
        _require(0 <= self.flip <= 1, f"data.flip = {self.flip!r}: a probability between 0 and 1")
        _require(
            len(self.scale) == 2 and min(self.scale) > 0, f"data.scale = {self.scale!r}: (w, h)"
        )
        if self.train_scales is not None:
            _require(
                min(side for scale in self.train_scales for side in scale) > 0,
                f"data.train_scales = {self.train_scales!r}: ((w, h), (w, h)) in pixels",
            )
            _require(
                self.train_pipeline is None,
                f"data.train_scales = {self.train_scales!r} with data.train_pipeline: a pipeline "
                "of your own resizes itself (mmdet's RandomResize); keep one of the two",
            )

    @property
    def largest_scale(self) -> tuple[int, int]:
        """Sides that no training image of the default pipeline exceeds."""
        scales = self.train_scales or (self.scale,)
        return max(scale[0] for scale in scales), max(scale[1] for scale in scales)


@dataclass(frozen=True, kw_only=True)
class SwitchConfig:
    """Who teaches. The defaults of scope and tie rules are those of ``orchestrator.switching``."""

    criterion: str = "self"
    """``self`` (each assigns for itself), ``fixed`` (LAD), ``std_mean`` or ``fisher`` (CoLAD)."""
    scope: str | None = None
    """Pairs of one decision: gt_level, gt, image or iteration. None: the assigner's default."""
    teacher: str | None = None
    """With ``fixed``: the network whose costs everybody learns from."""

    def __post_init__(self) -> None:
        _one_of("switch.criterion", self.criterion, CRITERIA)
        _require(
            self.scope is None or self.scope in SCOPES,
            f"switch.scope = {self.scope!r}: expected one of {', '.join(SCOPES)}",
        )
        _require(
            (self.criterion == "fixed") == (self.teacher is not None),
            f"switch.teacher = {self.teacher!r} with switch.criterion = {self.criterion!r}: "
            "a fixed switch names its teacher, the others must not",
        )


@dataclass(frozen=True, kw_only=True)
class SoftLabelConfig:
    """Learners imitate their teacher's outputs. The defaults are SoLAD's (LAD plus this)."""

    loss: str = "kl"
    """``kl`` (with focal factor), ``l1`` or ``l2`` between probabilities."""
    gamma: float = 0.5
    """Exponent of the focal factor |teacher - learner| of ``kl`` (the paper: 0, 0.5, 2)."""
    cls_weight: float = 2.0
    """Weight of the class term (soft labels without LAD in the reference code: 10)."""
    iou_weight: float = 10.0
    """Weight of the quality term; 0 where teacher and learner predict different qualities."""
    box_weight: float = 1.3
    """Weight of 1 - GIoU to the teacher's box."""
    iou_threshold: float = 0.5
    """Boxes are imitated above this overlap with a GT (without LAD the reference code has 0.1)."""
    selection: str = "teacher_box"
    """Whose overlap that is: the teacher's predicted box, or the ``anchor``."""
    hard_labels: bool = True
    """Also learn from the assignment. False: from the teacher alone (paper: soft label)."""

    def __post_init__(self) -> None:
        _one_of("soft_labels.loss", self.loss, SOFT_LOSSES)
        _one_of("soft_labels.selection", self.selection, SOFT_SELECTIONS)
        for name in ("gamma", "cls_weight", "iou_weight", "box_weight"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"soft_labels.{name} = {value!r}: must not be negative")
        _require(
            0 <= self.iou_threshold < 1,
            f"soft_labels.iou_threshold = {self.iou_threshold!r}: an overlap in [0, 1)",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation; mmdet's own dict forms for optimizer and schedule."""

    max_iterations: int | None = None
    """Optimizer steps. Exactly one of this and ``max_epochs``."""
    max_epochs: int | None = None
    """Passes over the training images."""
    batch_size: int = 8
    """Images per micro-batch over all ranks of a network (the papers: 16)."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    precision: str = "fp32"
    """``fp32``, ``bf16`` or ``fp16`` autocast of forward passes; costs and losses stay float32."""
    optimizer: dict[str, Any] = field(
        default_factory=lambda: dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4)
    )
    """torch optimizer as mmengine builds it."""
    paramwise_cfg: dict[str, Any] = field(default_factory=dict)
    """mmengine's per-parameter options (``norm_decay_mult``, ``custom_keys`` ...)."""
    param_scheduler: list[dict[str, Any]] = field(default_factory=list)
    """mmengine schedulers; those by epoch are converted to iterations."""
    clip_grad: float | None = None
    """Largest gradient norm of a network, or None."""

    def __post_init__(self) -> None:
        _require(
            (self.max_iterations is None) != (self.max_epochs is None),
            f"train.max_iterations = {self.max_iterations!r} and train.max_epochs = "
            f"{self.max_epochs!r}: give exactly one of them",
        )
        _positive(
            train__max_iterations=self.max_iterations,
            train__max_epochs=self.max_epochs,
            train__batch_size=self.batch_size,
            train__accumulate=self.accumulate,
            train__clip_grad=self.clip_grad,
        )
        _require(
            self.batch_size <= LARGEST_BATCH,
            f"train.batch_size = {self.batch_size}: at most {LARGEST_BATCH}",
        )
        _one_of("train.precision", self.precision, PRECISIONS)
        _require("type" in self.optimizer, "train.optimizer needs a type, such as 'SGD'")


@dataclass(frozen=True, kw_only=True)
class FeedConfig:
    """Decoding, paid once for all networks of a shard."""

    workers: int = 0
    """Decoding processes per feeder; 0 decodes in the feeder itself."""
    prefetch: int = 2
    """Batches asked for ahead of the iteration that uses them."""
    placement: str = "shared"
    """``shared``: one feeder per shard; ``per_node``: one per shard and node, equal streams."""

    def __post_init__(self) -> None:
        _require(self.workers >= 0, f"feed.workers = {self.workers}: must not be negative")
        _positive(feed__prefetch=self.prefetch)
        _one_of("feed.placement", self.placement, ("shared", "per_node"))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """COCO evaluation of every learner on the validation split."""

    interval: int | None = None
    """Iterations between evaluations; None: only at the end."""
    interval_epochs: int | None = None
    """The same in epochs. At most one of the two."""
    batch_size: int = 8
    """Images per forward pass and rank."""
    frozen: bool = False
    """Evaluate frozen networks too, once, before training."""
    backend: str = "pycocotools"
    """``pycocotools``, or ``faster``: the same numbers by faster-coco-eval (extra fast-eval)."""

    def __post_init__(self) -> None:
        _require(
            self.interval is None or self.interval_epochs is None,
            "evaluation.interval and evaluation.interval_epochs exclude each other: keep one",
        )
        _positive(
            evaluation__interval=self.interval,
            evaluation__interval_epochs=self.interval_epochs,
            evaluation__batch_size=self.batch_size,
        )
        _one_of("evaluation.backend", self.backend, EVALUATION_BACKENDS)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of all networks at one moment. The end of a run always writes one."""

    interval: int | None = None
    """Iterations between checkpoints; None: at every evaluation and at the end."""
    interval_minutes: float | None = None
    """Also one when the last is this many minutes old."""
    keep: int = 2
    """How many of the newest to keep."""
    keep_best: int = 1
    """How many of the best to keep, too: those followed by the learners' highest mean."""
    best_metric: str = "AP"
    """Of the evaluation: what ``keep_best`` goes by, ``AP50`` or ``AR_100`` for example."""
    on_error: str = "stop"
    """When one cannot be written (a full disk): ``stop`` the run, or ``warn`` and train on."""
    upload: str | None = None
    """Where to keep a copy of the run: ``s3://bucket/folder`` or another URI that pyarrow knows."""

    def __post_init__(self) -> None:
        _positive(
            checkpoint__interval=self.interval,
            checkpoint__interval_minutes=self.interval_minutes,
            checkpoint__keep=self.keep,
        )
        _require(self.keep_best >= 0, f"checkpoint.keep_best = {self.keep_best}: must not be < 0")
        _one_of("checkpoint.best_metric", self.best_metric, BEST_METRICS)
        _one_of("checkpoint.on_error", self.on_error, ("stop", "warn"))


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """What the trial asks Ray for."""

    ranks: int = 1
    """Actors per network; rank r of every network meets on shard r of the batch."""
    threads: int = 1
    """torch threads of each network actor."""
    cpus_per_network: float = 0.5
    """CPUs that Ray reserves for each rank of each network (book-keeping, not a limit)."""
    gpus_per_network: float | str = "auto"
    """GPUs for each rank of each network; ``"auto"``: 1 where the cluster has any, else 0."""
    cpus_per_feeder: float = 0.25
    """CPUs reserved for each feeder; at least its number of workers."""
    cpus_controller: float = 0.25
    """CPUs reserved for the controller."""
    placement: str = "pack"
    """``pack``: networks close together; ``spread``: on different nodes where possible."""
    ranks_per_node: int | str = "auto"
    """Ranks of a network that are kept on one node; ``"auto"``: as many as a node holds."""
    max_retries: int = 3
    """Restarts from the last checkpoint after a process was lost or hung; of one launch."""
    max_preemptions: int = 20
    """Restarts from the last checkpoint after a node was lost or preempted; of one launch."""
    hang_timeout: float | None = 600.0
    """Seconds after which a process that does not answer is killed, and the run starts again; None
    waits for ever. An evaluation has that time, and once more for every 500 images of a rank."""

    def __post_init__(self) -> None:
        _positive(resources__ranks=self.ranks, resources__threads=self.threads)
        _one_of("resources.placement", self.placement, ("pack", "spread"))
        for name in ("cpus_per_network", "cpus_per_feeder", "cpus_controller"):
            amount = getattr(self, name)
            _require(
                0 < amount < math.inf,
                f"resources.{name} = {amount}: must be a number greater than 0",
            )
        gpus = self.gpus_per_network
        if isinstance(gpus, str):
            _one_of("resources.gpus_per_network", gpus, ("auto",))
        else:
            _require(gpus >= 0, f"resources.gpus_per_network = {gpus}: must not be negative")
            self.check_whole("resources.gpus_per_network", gpus)
        if isinstance(self.ranks_per_node, str):
            _one_of("resources.ranks_per_node", self.ranks_per_node, ("auto",))
        else:
            _positive(resources__ranks_per_node=self.ranks_per_node)
            _require(
                self.ranks % self.ranks_per_node == 0,
                f"resources.ranks_per_node = {self.ranks_per_node} does not divide "
                f"resources.ranks = {self.ranks}",
            )
        for name in ("max_retries", "max_preemptions"):
            amount = getattr(self, name)
            _require(amount >= 0, f"resources.{name} = {amount}: must not be negative")
        _positive(resources__hang_timeout=self.hang_timeout)

    def check_whole(self, field_name: str, gpus: float) -> None:
        """Refuse a share of a GPU where a network has several ranks."""
        _require(
            self.ranks == 1 or float(gpus).is_integer(),
            f"{field_name} = {gpus} with resources.ranks = {self.ranks}: several "
            "ranks on one GPU would wait for each other in every all-reduce; use whole GPUs",
        )


def patience(images: float) -> float:
    """How many times ``resources.hang_timeout`` an evaluation of so many images may take."""
    return 1.0 + images / 500


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What the run directory records."""

    flush_interval: int = 50
    """Iterations between writes of the run log and the live view's numbers."""
    assignments_interval: int | None = None
    """Iterations between sampled cost tables in ``assignments.parquet``; 0 for none, None for 40 of
    them over the run."""

    def __post_init__(self) -> None:
        _positive(log__flush_interval=self.flush_interval)
        _require(
            self.assignments_interval is None or self.assignments_interval >= 0,
            f"log.assignments_interval = {self.assignments_interval}: must not be negative",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run."""

    networks: dict[str, NetworkConfig]
    """By name, in order: the order breaks ties of the switch (the first listed teaches)."""
    data: DataConfig
    train: TrainConfig
    assigner: dict[str, Any] = field(default_factory=lambda: dict(type="PAA"))
    """Assigner of the run: ``type`` and its hyper-parameters."""
    switch: SwitchConfig = field(default_factory=SwitchConfig)
    soft_labels: SoftLabelConfig | None = None
    """Imitate the teacher's outputs, too; None for the assignment alone."""
    feed: FeedConfig = field(default_factory=FeedConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    log: LogConfig = field(default_factory=LogConfig)
    seed: int = 0
    """Seed of initial weights, data order and augmentation."""
    lookahead: int = 2
    """Iterations that may be in flight: how far a frozen teacher runs ahead of its students."""
    custom_imports: list[str] = field(default_factory=list)
    """Modules that every actor imports first (own heads, transforms ...)."""

    def __post_init__(self) -> None:
        _require(len(self.networks) > 0, "networks is empty: name at least one network")
        for name in self.networks:
            _require(
                re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None,
                f"networks.{name}: a network's name is letters, digits and underscores, and starts "
                "with a letter",
            )
        learners = [name for name, network in self.networks.items() if network.learner]
        _require(bool(learners), "networks: none of them is a learner; set learner=True for one")
        _positive(lookahead=self.lookahead)
        _require(0 <= self.seed < 1 << 128, f"seed = {self.seed}: must lie in 0 .. 2^128")
        _require("type" in self.assigner, "assigner needs a type, such as 'PAA'")
        self._check_switch(learners)
        self._check_soft_labels()
        for name, network in self.networks.items():
            self.resources.check_whole(f"networks.{name}.gpus", network.gpus or 0)
        ranks, images = self.resources.ranks, self.train.batch_size
        _require(
            images % ranks == 0,
            f"train.batch_size = {images} does not divide over resources.ranks = {ranks}",
        )

    def _check_switch(self, learners: Sequence[str]) -> None:
        frozen = [name for name in self.networks if name not in learners]
        criterion, teacher = self.switch.criterion, self.switch.teacher
        if criterion == "self":
            _require(
                not frozen,
                f"networks.{frozen[0] if frozen else ''} is frozen but switch.criterion = 'self': "
                "nobody would look at it; use 'fixed' (LAD) or 'std_mean' (LAD with switch)",
            )
        if teacher is not None:
            _require(
                teacher in self.networks,
                f"switch.teacher = {teacher!r}: no such network; there are {list(self.networks)}",
            )
            unread = [name for name in frozen if name != teacher]
            _require(not unread, f"networks {unread} are frozen and not the teacher: remove them")
        if criterion in ("std_mean", "fisher"):
            _require(
                len(self.networks) > 1,
                f"switch.criterion = {criterion!r} needs at least two networks",
            )

    def _check_soft_labels(self) -> None:
        if self.soft_labels is None:
            return
        criterion, teacher = self.switch.criterion, self.switch.teacher
        _require(
            criterion != "self",
            "soft_labels with switch.criterion = 'self': nobody teaches; use 'fixed' (SoLAD) or "
            "'std_mean' (CoLAD with soft labels)",
        )
        _require(
            self.soft_labels.hard_labels
            or (teacher is not None and not self.networks[teacher].learner),
            f"soft_labels.hard_labels = False with switch.criterion = {criterion!r}, "
            f"switch.teacher = {teacher!r}: without labels somebody must know the classes already; "
            "name a frozen network (learner=False) as the fixed teacher",
        )

    @property
    def learners(self) -> tuple[str, ...]:
        """Names of the networks that get gradients."""
        return tuple(name for name, network in self.networks.items() if network.learner)

    @property
    def readable(self) -> tuple[str, ...]:
        """Names of the networks whose cost tables somebody else looks at."""
        if self.switch.criterion == "self":
            return ()
        if self.switch.teacher is not None:
            return (self.switch.teacher,)
        return tuple(self.networks)

    def gpus_of(self, network: str) -> float | str:
        """GPUs of each rank of a network; ``"auto"`` before ``placement.resolve_gpus``."""
        own = self.networks[network].gpus
        return self.resources.gpus_per_network if own is None else own

    def to_dict(self) -> dict[str, Any]:
        """Plain dict of every field, as ``config.py`` of a run directory stores it."""
        return dataclasses.asdict(self)

    def digest(self) -> str:
        """Digest of everything that decides the weights; a resumed run must have the same."""
        plain = self.to_dict()
        for name in ("resources", "log", "evaluation", "checkpoint", "lookahead", "feed"):
            plain.pop(name)
        for network in plain["networks"].values():
            for name in ("gpus", "labels", "resources"):
                network.pop(name)
        plain["ranks"] = self.resources.ranks
        text = json.dumps(plain, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
