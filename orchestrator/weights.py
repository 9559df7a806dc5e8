"""Weights on disk: reading checkpoints of others safely, and our own state parts.

A torch checkpoint is a pickle, and unpickling can run any program. So files are read with
``weights_only=True`` and nothing else is ever tried. mmengine's epoch files hold, beside the
weights, log histories that this mode refuses; mmengine's own allow-list lets them through by
allowing the real ``getattr``, which gives a hostile file the interpreter: ``getattr`` reaches a
builtin's ``__self__`` and so the dictionary of builtins, whose entries a pickle may then replace.
Here every such name stands for an inert placeholder that ignores what it is given.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import threading
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.data.text import shown
from orchestrator.errors import CheckpointError, ModelError

_FIELDS = "networks.<name>.pretrained or networks.<name>.checkpoint"
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")
_REFUSED_NAME = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
_SHOWN = 5
"""How many keys an error message names."""


class Inert:
    """Stands in a loaded checkpoint for an object that is not weights; carries nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _placeholder(full_name: str) -> type[Inert]:
    """A class that a pickle finds under ``full_name``."""
    module, _, name = full_name.rpartition(".")
    return type(name, (Inert,), {"__module__": module, "__qualname__": name})


# Names of these packages in a file become placeholders; a name of any other is refused.
_BESIDE_WEIGHTS = ("mmengine.", "mmcv.", "mmdet.", "numpy.")
# What pickle itself uses to write their bound methods and slices.
_ALWAYS = ("builtins.getattr", "builtins.slice")
# torch keeps one allow-list per process; two loads that end at different times would spoil it.
_allow_list_lock = threading.Lock()


def load_weights(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file (of mmengine, mmdet, torch) onto the CPU without executing anything.

    Log histories and numpy values in it come back as ``Inert``.

    Raises:
        CheckpointError: a URL, a missing or damaged file, or one that is more than weights.
    """
    text = str(path)
    if _URL.match(text):
        raise CheckpointError(
            f"weights {text!r}: nothing is downloaded. Fetch the file yourself and give its path "
            f"in {_FIELDS}"
        )
    try:
        path = Path(path).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, a user who is none
        raise CheckpointError(
            f"weights {shown(text)}: {getattr(error, 'strerror', None) or error}; the path comes "
            f"from {_FIELDS}"
        ) from error
    if not found:
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"weights {text!r}: {what} (current folder {Path.cwd()}); the path comes from {_FIELDS}"
        )
    try:
        checkpoint = _load_inert(path)
    except PermissionError as error:
        raise CheckpointError(f"weights {text!r}: cannot be read: {error}") from error
    except Exception as error:  # whatever a damaged or hostile file makes torch stumble over
        raise CheckpointError(f"weights {text!r}: {_explain(error)}") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"weights {text!r}: holds a {type(checkpoint).__name__}, expected a dict of tensors"
        )
    return checkpoint


def _load_inert(path: Path) -> Any:
    """``torch.load`` with placeholders for what lies beside the weights."""
    with _allow_list_lock:
        names = set(_ALWAYS)
        if zipfile.is_zipfile(path):  # torch < 1.6 wrote no zip files, and mmengine did not exist
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
            names.update(name for name in unsafe if name.startswith(_BESIDE_WEIGHTS))
        placeholders: list[Any] = [_placeholder(name) for name in sorted(names)]
        with torch.serialization.safe_globals(placeholders), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a pickle of an odd protocol; what counts is raised
            return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def only_our_loader(name: str) -> Iterator[None]:
    """While a detector is built, mmengine's own loader, which may execute a file, is shut.

    Parts of mmdet reach it by other ways than an ``init_cfg`` that one can look for (``pretrained``
    of a backbone, ``teacher_ckpt`` of a detector, lists); all end in this one function.

    Args:
        name: of the network, for the message.

    Raises:
        ModelError: a part wants to load a file.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    def refuse(filename: object, *_: object, **__: object) -> None:
        raise ModelError(
            f"networks.{name}.model: a part of it would load {str(filename)!r} by itself, and "
            f"mmengine executes what such a file says. Remove that field and name the file in "
            f"networks.{name}.pretrained (weights of the backbone) or networks.{name}.checkpoint "
            "(of the whole detector)"
        )

    loader: Any = CheckpointLoader
    original = loader.__dict__["load_checkpoint"]
    loader.load_checkpoint = staticmethod(refuse)
    try:
        yield
    finally:
        loader.load_checkpoint = original


def _explain(error: Exception) -> str:
    """Why ``torch.load`` failed, and what to do."""
    refused = _REFUSED_NAME.search(str(error))
    if refused:
        return (
            f"refused, because it holds {refused.group(1)!r}: loading that means executing what "
            "the file says. If you trust its source, save the bare weights from it, "
            "torch.save({'state_dict': model.state_dict()}, ...), and use that file"
        )
    if "torchscript" in str(error).lower():
        return "is a TorchScript archive; save its state_dict() with torch.save and use that file"
    _, _, detail = str(error).rpartition("WeightsUnpickler error:")
    reason = detail.strip().splitlines()[0].split(". ")[0] if detail.strip() else ""
    if not isinstance(error, (RuntimeError, pickle.UnpicklingError)):
        reason = f"{type(error).__name__} {reason}".strip()
    return f"is not a torch checkpoint, or is damaged ({reason})"


def state_dict_of(checkpoint: Mapping[str, Any], what: str = "checkpoint") -> dict[str, Tensor]:
    """The weights in a checkpoint: under ``state_dict``, under ``model``, or bare.

    Args:
        what: for the message.

    A ``module.`` in front of every key (left by data-parallel wrappers) is dropped.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"{what}: holds a {type(checkpoint).__name__}, not tensors by name")
    found: Mapping[str, Any] = checkpoint
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            found = checkpoint[key]
            break
    alien = [
        key
        for key, value in found.items()
        if not isinstance(key, str) or not isinstance(value, Tensor)
    ]
    if alien or not found:
        names = ", ".join(shown(key) for key in alien[:_SHOWN]) or "nothing at all"
        raise CheckpointError(
            f"{what}: no weights found: expected tensors by name, bare or under 'state_dict' "
            f"or 'model'; got {names}"
        )
    wrapped = all(key.startswith("module.") for key in found)
    return {key.removeprefix("module.") if wrapped else key: v for key, v in found.items()}


def class_names_of(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that mmdet wrote beside the weights, in order; empty where it wrote none."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return ()
    dataset = meta.get("dataset_meta")  # mmdet 2 wrote the names into meta itself
    named = {**meta, **(dataset if isinstance(dataset, Mapping) else {})}
    classes = named.get("classes") or named.get("CLASSES") or ()
    return tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else ()


def load_into(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    what: str,
    prefix: str | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> None:
    """Copy weights into a module, all of them or none.

    Args:
        what: what is loaded into what, for the message ("network 'r50' from epoch_12.pth").
        prefix: use the keys below this name only, without it (``"backbone"``).
        allow_missing: patterns (``fnmatch``) of the module's keys that the weights may lack.
        allow_unexpected: patterns of keys that the module may lack (``"fc.*"``).

    Raises:
        CheckpointError: keys are missing, unexpected or of other shapes, or values are no real,
            finite numbers; the module is unchanged.
    """
    if prefix is not None:
        start = prefix if prefix.endswith(".") else prefix + "."
        state_dict = {k[len(start) :]: v for k, v in state_dict.items() if k.startswith(start)}
        if not state_dict:
            raise CheckpointError(f"{what}: no key of the weights starts with {start!r}")
    own = module.state_dict()
    misfits = [
        f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in state_dict.items()
        if key in own and own[key].shape != value.shape
    ]
    for key, value in state_dict.items():
        if key in own and (oddity := _oddity(value)) is not None:
            raise CheckpointError(f"{what}: {key!r} {oddity}; save plain float tensors")
    fitting = {k: v for k, v in state_dict.items() if k not in own or own[k].shape == v.shape}
    before = {key: value.clone() for key, value in own.items()}
    try:
        # The module's own hooks may rename keys of older versions, so torch says what is missing.
        missing, unexpected = module.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        _restore(module, before)
        reason = "\n".join(str(error).splitlines()[:_SHOWN])
        raise CheckpointError(f"{what}: {reason}") from error
    absent = [k for k in missing if k not in state_dict and not _matches(k, allow_missing)]
    absent = [k for k in absent if not k.endswith("num_batches_tracked")]  # older files lack it
    surplus = [key for key in unexpected if not _matches(key, allow_unexpected)]
    if misfits or absent or surplus:
        _restore(module, before)
        raise CheckpointError(_misfit_message(what, len(own), misfits, absent, surplus))


def _oddity(value: Tensor) -> str | None:
    """Why a tensor cannot be a weight; None if it can."""
    if value.is_meta:
        return "has a shape and no values (meta device)"
    if value.is_quantized:
        return "is quantized"
    if value.layout is not torch.strided:
        return f"is sparse ({value.layout})"
    if value.is_complex():
        return "holds complex numbers"
    small = value.is_floating_point() and value.element_size() == 1  # torch cannot ask float8
    if not bool(torch.isfinite(value.float() if small else value).all()):
        return "holds NaN or infinity"
    return None


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


@torch.no_grad()
def _restore(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    for key, value in module.state_dict().items():
        value.copy_(before[key])


def _misfit_message(
    what: str, num_own: int, misfits: list[str], missing: list[str], unexpected: list[str]
) -> str:
    lines = [f"{what}: the weights are of another architecture ({num_own} keys expected)"]
    for title, keys in (
        ("other shape", misfits),
        ("missing", missing),
        ("unexpected", unexpected),
    ):
        if keys:
            more = f", ... {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            lines.append(f"  {title} ({len(keys)}): {', '.join(keys[:_SHOWN])}{more}")
    return "\n".join(lines)


def serialise(obj: Any) -> bytes:
    """Our own state (tensors in plain containers) as bytes that ``deserialise`` reads.

    Raises:
        TypeError: something in it would not load again; names where it is.
    """
    _require_plain(obj, "state")
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


def deserialise(data: bytes | memoryview, what: str = "state part") -> Any:
    """What ``serialise`` was given, tensors on the CPU.

    Args:
        what: for the message.

    Raises:
        CheckpointError: something else, or more than plain values; nothing of it is executed.
    """
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes are of unknown origin
        raise CheckpointError(f"{what} of {len(data)} bytes: {_explain(error)}") from error


_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


def _require_plain(obj: Any, where: str) -> None:
    """Raise unless ``obj`` survives a load with ``weights_only=True`` (subclasses do not)."""
    kind = type(obj)
    if kind in _PLAIN or kind in (Tensor, nn.Parameter):
        return
    if kind in (dict, OrderedDict, Counter):
        for key, value in obj.items():
            _require_plain(key, f"a key of {where}")
            _require_plain(value, f"{where}[{key!r}]")
    elif kind in (list, tuple, set):
        for index, value in enumerate(obj):
            _require_plain(value, f"{where}[{index}]")
    else:
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, which does not load again; "
            "make it a tensor (torch.from_numpy) or a plain Python value"
        )
