"""From a network's configuration to a detector with weights, its optimizer and its schedules."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.config import NetworkConfig, TrainConfig
from orchestrator.config_file import to_plain
from orchestrator.data.text import shown
from orchestrator.errors import CheckpointError, ConfigError, ModelError

DOWNLOAD_SCHEMES = ("torchvision://", "open-mmlab://", "openmmlab://", "http://", "https://")


def import_custom(modules: Sequence[str]) -> None:
    """Import the user's modules, and ours, so that their heads and transforms are registered.

    Raises:
        ConfigError: a module cannot be imported.
    """
    for module in ("models", *modules):
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"custom_imports: {shown(module)} is no name of a module")
        try:
            importlib.import_module(module)
            _quiet_mmengine()
        except (ImportError, SyntaxError) as error:
            raise ConfigError(f"custom_imports: cannot import {module!r}: {error}") from error


def register_mmdet() -> None:
    """Register mmdet's modules (and ours, whose import makes mmdet importable) in its scope."""
    import_custom(())
    with contextlib.redirect_stdout(io.StringIO()):  # it prints about what it does not find
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=True)


def _quiet_mmengine() -> None:
    """mmengine reports the initialisation of every parameter; only its warnings are of use here."""
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().setLevel("WARNING")


def resolve_model(name: str, config: NetworkConfig, num_classes: int) -> dict[str, Any]:
    """The full mmdet ``model`` dict of a network: base, overrides, the data's classes.

    A learner gets our counterpart of its head; a frozen network keeps its own.

    Raises:
        ConfigError: unknown preset, unreadable mmdet config, or a class count that contradicts the
            data.
    """
    from mmengine.config import Config, ConfigDict

    from models.co_head import co_head_type

    base = _base_model(name, config, num_classes)
    overrides = copy.deepcopy(config.model)
    try:
        model = to_plain(Config._merge_a_into_b(ConfigDict(overrides), ConfigDict(base)))
    except (KeyError, TypeError) as error:
        raise ConfigError(f"networks.{name}.model: {error}") from error
    head = model.get("bbox_head")
    if not isinstance(head, dict):
        raise ConfigError(
            f"networks.{name}.model of type {model.get('type')!r} has no bbox_head: only dense "
            "single-stage detectors can take part"
        )
    explicit = config.model.get("bbox_head", {}).get("num_classes")
    if explicit is not None and explicit != num_classes:
        raise ConfigError(
            f"networks.{name}.model.bbox_head.num_classes = {explicit} but the data has "
            f"{num_classes} classes: remove the field (it follows the data) or set data.classes"
        )
    known = head.get("num_classes", num_classes)
    if not config.learner and known != num_classes:
        raise ConfigError(
            f"networks.{name} is a frozen teacher of {known} classes but the data has "
            f"{num_classes}: a teacher must know the same classes in the same order. If its "
            f"checkpoint does, set networks.{name}.model.bbox_head.num_classes = {num_classes}"
        )
    head["num_classes"] = num_classes
    head["type"] = _short_type(head.get("type"))
    if config.learner:
        head["type"] = co_head_type(head["type"])
    return model


def _short_type(kind: Any) -> Any:
    """The registered name of an mmdet class that is given by its path (new-style configs)."""
    return kind.rpartition(".")[2] if isinstance(kind, str) and kind.startswith("mmdet.") else kind


def _base_model(name: str, config: NetworkConfig, num_classes: int) -> dict[str, Any]:
    from mmengine.config import Config

    from models.presets import PRESETS

    if config.preset is not None:
        if config.preset not in PRESETS:
            raise ConfigError(
                f"networks.{name}.preset = {config.preset!r}: expected one of {', '.join(PRESETS)}"
            )
        return to_plain(PRESETS[config.preset](num_classes))
    if config.config is None:
        return {}
    try:
        path = _mmdet_config_path(config.config)
        loaded = Config.fromfile(path, import_custom_modules=False)
        return to_plain(loaded.model)
    except Exception as error:  # an mmdet config is a program: whatever it raises is its error
        raise ConfigError(
            f"networks.{name}.config = {config.config!r}: {type(error).__name__}: {error}"
        ) from error


def _mmdet_config_path(reference: str) -> str:
    """``mmdet::paa/x.py`` as a path inside the installed mmdet; anything else unchanged."""
    package, separator, relative = reference.partition("::")
    if not separator:
        return reference
    module = importlib.import_module(package)
    assert module.__file__ is not None
    return str(Path(module.__file__).parent / ".mim" / "configs" / relative)


def build_head(name: str, config: NetworkConfig, num_classes: int) -> nn.Module:
    """A network's head alone, with random weights, for its prior grid.

    Raises:
        ConfigError, ModelError: naming the field to change.
    """
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    model = resolve_model(name, config, num_classes)
    head = dict(model["bbox_head"])
    for field in ("train_cfg", "test_cfg"):  # as a detector hands them to its head
        head[field] = model.get(field)
    try:
        with torch.random.fork_rng(devices=[]), _own_deprecation_ignored():
            built: nn.Module = MODELS.build(ConfigDict(head))
    except Exception as error:  # mmdet's constructors raise anything for bad fields
        raise ModelError(
            f"networks.{name}.model.bbox_head does not build: {type(error).__name__}: {error}"
        ) from error
    return built


def build_detector(
    name: str,
    config: NetworkConfig,
    num_classes: int,
    seed: int,
    *,
    classes: Sequence[str] = (),
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a detector with its initial weights on the CPU.

    Args:
        name: the network's name; together with ``seed`` it decides random weights.
        config: the network's fields.
        num_classes: classes of the data.
        seed: the run's seed.
        classes: their names, which a frozen teacher's checkpoint must agree with where it names
            its own; empty skips this.

    Returns:
        The mmdet detector and the ``model`` dict it was built from.

    Raises:
        ConfigError, ModelError, CheckpointError: naming the field to change.
    """
    register_mmdet()
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict

    from orchestrator.weights import only_our_loader

    model = resolve_model(name, config, num_classes)
    _seed_head(model["bbox_head"], seed)
    _check_preprocessor(name, model)
    backbone_weights = _take_pretrained(name, config, model)
    torch.manual_seed(network_seed(seed, name))
    with only_our_loader(name):
        try:
            with _own_deprecation_ignored():
                detector = MODELS.build(ConfigDict(copy.deepcopy(model)))
        except ModelError:
            raise
        except Exception as error:  # mmdet's constructors raise anything for bad fields
            raise ModelError(
                f"networks.{name}.model does not build: {type(error).__name__}: {error}"
            ) from error
        try:
            detector.init_weights()
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"networks.{name}.model: an init_cfg does not run: {type(error).__name__}: {error}"
            ) from error
    _load_weights(name, config, detector, backbone_weights, classes)
    return detector, model


@contextlib.contextmanager
def _own_deprecation_ignored() -> Iterator[None]:
    """Some of mmdet's heads read a property that mmdet itself deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DeprecationWarning: `num_anchors`")
        yield


def _seed_head(head: dict[str, Any], seed: int) -> None:
    """The run's seed for the fields of a head that must be equal in all networks."""
    from mmdet.registry import MODELS

    kind = head.get("type")
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    for field in getattr(kind, "seeded_fields", ()):  # mmdet's own heads have none
        head.setdefault(field, seed)


def network_seed(seed: int, name: str, rank: int = 0) -> int:
    """A seed of its own for each (run seed, network, rank)."""
    import numpy as np

    words = [seed, rank, *name.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def _check_preprocessor(name: str, model: Mapping[str, Any]) -> None:
    preprocessor = model.get("data_preprocessor") or {}
    field = f"networks.{name}.model.data_preprocessor"
    if not isinstance(preprocessor, Mapping):
        raise ConfigError(f"{field} = {shown(preprocessor)}: expected a dict")
    if preprocessor.get("batch_augments"):
        raise ConfigError(
            f"{field}.batch_augments is set: all networks must see the same pixels, so "
            "augmentation belongs to data.train_pipeline"
        )
    if _short_type(preprocessor.get("type")) != "DetDataPreprocessor":
        raise ConfigError(
            f"{field}.type = {preprocessor.get('type')!r}: expected 'DetDataPreprocessor' (others "
            "may change images between networks)"
        )


def _init_cfgs(model: Any) -> Iterator[dict[str, Any]]:
    """Every dict of ``model`` that holds an ``init_cfg`` of type Pretrained."""
    if isinstance(model, dict):
        init = model.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            yield model
        for value in model.values():
            yield from _init_cfgs(value)
    elif isinstance(model, (list, tuple)):
        for value in model:
            yield from _init_cfgs(value)


def _take_pretrained(name: str, config: NetworkConfig, model: dict[str, Any]) -> str | None:
    """Remove Pretrained init_cfgs from ``model``; return the backbone weights to load, if any.

    mmengine would load them itself, and execute a pickle doing so; we load them safely instead.
    With weights of the whole detector, or random ones, what they name is not loaded at all.
    """
    ours = config.checkpoint is not None or config.pretrained in (None, "none")
    named = None
    for owner in list(_init_cfgs(model)):
        backbone = owner is model.get("backbone")
        if ours or backbone:  # what another part names is refused where it wants to load it
            init = owner.pop("init_cfg")
            named = init.get("checkpoint") if backbone else named
    if ours:
        return None
    path = named if config.pretrained == "auto" else config.pretrained
    if path is None:
        return None
    field = f"networks.{name}.pretrained"
    if path.startswith(DOWNLOAD_SCHEMES):
        raise ModelError(
            f"networks.{name}: the backbone's weights {path!r} would need a download; nothing is "
            f"downloaded here. Set {field} to the path of that file, or to none for random weights"
        )
    if not os.path.isfile(path):  # also of a name that no file system takes
        raise CheckpointError(f"{field} = {shown(path)}: no such file")
    return path


def _load_weights(
    name: str,
    config: NetworkConfig,
    detector: nn.Module,
    backbone_weights: str | None,
    classes: Sequence[str],
) -> None:
    from orchestrator.backbone_weights import load_backbone
    from orchestrator.weights import class_names_of, load_into, load_weights, state_dict_of

    if config.checkpoint is not None:
        checkpoint = load_weights(config.checkpoint)
        what = f"networks.{name}.checkpoint = {config.checkpoint!r}"
        named = class_names_of(checkpoint)
        if not config.learner and classes and named and tuple(named) != tuple(classes):
            raise CheckpointError(
                f"{what}: this frozen teacher knows the classes {list(named)}, the data has "
                f"{list(classes)}; they must be the same in the same order (data.classes sets "
                "the order)"
            )
        load_into(detector, state_dict_of(checkpoint, what), what=what)
    elif backbone_weights is not None:
        what = f"networks.{name}.pretrained = {backbone_weights!r}"
        state = state_dict_of(load_weights(backbone_weights), what)
        load_backbone(detector.get_submodule("backbone"), state, what=what)


def build_optimizer(
    detector: nn.Module, network: NetworkConfig, train: TrainConfig, name: str
) -> torch.optim.Optimizer:
    """The network's optimizer, built as mmengine does (``paramwise_cfg`` included).

    Raises:
        ConfigError: unknown optimizer or arguments.
    """
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import OPTIMIZERS

    kind = (network.optimizer or train.optimizer).get("type")
    if not isinstance(kind, str) or OPTIMIZERS.get(kind) is None:
        raise ConfigError(
            f"optimizer of networks.{name}: type = {kind!r} is no optimizer of torch or mmengine"
        )
    config = dict(
        type="OptimWrapper",
        optimizer=copy.deepcopy(network.optimizer or train.optimizer),
        paramwise_cfg=copy.deepcopy(
            train.paramwise_cfg if network.paramwise_cfg is None else network.paramwise_cfg
        ),
    )
    try:
        return build_optim_wrapper(detector, config).optimizer
    except (KeyError, TypeError, ValueError) as error:
        settings = config["optimizer"]
        raise ConfigError(f"optimizer of networks.{name} = {settings}: {error}") from error


def build_schedulers(
    optimizer: torch.optim.Optimizer,
    configs: Sequence[Mapping[str, Any]],
    *,
    iterations_per_epoch: int,
    max_iterations: int,
    field: str = "train.param_scheduler",
) -> list[Any]:
    """mmengine parameter schedulers, all stepping once per iteration.

    Those by epoch are converted; a missing ``total_steps`` or ``T_max`` becomes the run's length.

    Raises:
        ConfigError: unknown scheduler or arguments.
    """
    from mmengine.registry import PARAM_SCHEDULERS

    built = []
    for index, entry in enumerate(configs):
        config = dict(copy.deepcopy(entry))
        kind = config.pop("type", None)
        entry_field = f"{field}[{index}]"
        cls = PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else None
        if cls is None:
            raise ConfigError(f"{entry_field}.type = {kind!r}: not a scheduler of mmengine")
        by_epoch = config.pop("by_epoch", True)
        if by_epoch and kind.startswith("OneCycle"):
            by_epoch = False  # its length is the run's; only its steps count
        if kind.startswith("OneCycle"):
            config.setdefault("total_steps", max_iterations)
        if kind.startswith("Cosine"):
            epochs = -(-max_iterations // iterations_per_epoch)
            config.setdefault("T_max", epochs if by_epoch else max_iterations)
        try:
            if by_epoch:
                built.append(
                    cls.build_iter_from_epoch(
                        optimizer, epoch_length=iterations_per_epoch, by_epoch=True, **config
                    )
                )
            else:
                built.append(cls(optimizer, by_epoch=False, **config))
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"{entry_field}: {error}") from error
        except ZeroDivisionError as error:
            raise ConfigError(
                f"{entry_field}: {kind} has a part of no iterations in a run of {max_iterations}; "
                "raise train.max_iterations, or change the schedule"
            ) from error
    return built
