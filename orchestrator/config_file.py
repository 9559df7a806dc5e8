"""Configuration files: read, overridden from the command line, checked and written.

``load_config`` is the only door. An unknown, misspelt or contradictory field raises ``ConfigError``
naming it.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import pprint
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.config import RunConfig
from orchestrator.config_bases import close_leftovers, refuse_cycles
from orchestrator.errors import ConfigError

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Build dataclass ``cls`` from ``values``; ``path`` is the dotted name for messages.

    Raises:
        ConfigError: unknown field (with the nearest known one), missing field or wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path or 'config'} = {values!r}: expected a dict of fields")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{path}." if path else ""
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"unknown field {prefix}{name}{hint} Known: {', '.join(known)}")
    kwargs = {
        name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()
    }
    missing = [
        name
        for name, f in known.items()
        if name not in kwargs
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"missing field {prefix}{missing[0]}")
    try:
        return cls(**kwargs)
    except ConfigError as error:
        if path.startswith("networks."):
            raise ConfigError(f"{path}: {error}") from None
        raise


def _convert(hint: Any, value: Any, path: str) -> Any:
    """``value`` as type ``hint`` (dataclass, list, tuple, dict, union or scalar)."""
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        if len(options) == 1:  # the error names the field inside
            return _convert(options[0], value, path)
        for option in options:
            try:
                return _convert(option, value, path)
            except ConfigError:
                continue
        names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
        raise ConfigError(f"{path} = {value!r}: expected {names}")
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path} = {value!r}: expected a dict")
        return {key: _convert(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{path} = {value!r}: expected a {origin.__name__}")
        fixed = origin is tuple and args[-1] is not Ellipsis
        if fixed and len(value) != len(args):
            raise ConfigError(f"{path} = {value!r}: expected {len(args)} values")
        inner = args if fixed else [args[0]] * len(value)
        return origin(_convert(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, value)))
    return _convert_scalar(hint, value, path)


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) and hint is not bool:
        raise ConfigError(f"{path} = {value!r}: expected {hint.__name__}")
    if not isinstance(value, hint):
        raise ConfigError(f"{path} = {value!r}: expected {hint.__name__}")
    return value


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["a.b=1", "c=[1,2]"]`` -> ``{"a.b": 1, "c": [1, 2]}``; other words are strings.

    Raises:
        ConfigError: an override without ``=``.
    """
    parsed: dict[str, Any] = {}
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {item!r}: expected FIELD=VALUE, such as train.batch_size=4")
        parsed[key.strip()] = _parse_value(text.strip())
    return parsed


def _parse_value(text: str) -> Any:
    named = {"true": True, "false": False, "null": None}  # none is a word: objectness=none
    if text.lower() in named:
        return named[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read an mmengine config file, apply ``--set`` overrides and validate.

    Top-level names that start with an underscore are no fields: files share pieces by them
    (``_base_._x101``).

    Side effects: a config file is Python; it is executed.

    Raises:
        ConfigError: no such file, a file that does not run, or an invalid field.
    """
    path = Path(path)
    config = read_config(path)
    parsed = parse_overrides(overrides)
    with _naming_file(path):
        config.merge_from_dict(parsed)
    fields = {key: value for key, value in to_plain(config).items() if not key.startswith("_")}
    try:
        return from_mapping(RunConfig, fields)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_config(path: Path) -> Any:
    """An mmengine configuration file as mmengine's ``Config``, whatever it describes.

    Side effects: a config file is Python; it is executed.

    Raises:
        ConfigError: no such file, or a file that does not run.
    """
    from mmengine.config import Config

    if not path.is_file():
        raise ConfigError(f"config file {str(path)!r}: no such file")
    refuse_cycles(path)
    with _naming_file(path):
        return Config.fromfile(str(path), import_custom_modules=False)


@contextlib.contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    """The file is the user's program: whatever it raises is its error, also to leave Python."""
    try:
        yield
    except (Exception, SystemExit) as error:
        close_leftovers(error)
        raise ConfigError(f"config file {str(path)!r}: {type(error).__name__}: {error}") from error


def to_plain(value: Any) -> Any:
    """mmengine's ConfigDict as plain dicts and lists."""
    if hasattr(value, "to_dict"):
        return to_plain(value.to_dict())
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(to_plain(item) for item in value)
    return value


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as a config file that ``load_config`` reads back.

    The order of the networks survives (it breaks ties); mmengine's own text would be sorted.
    """
    sections = (
        f"{name} = {pprint.pformat(value, width=100, sort_dicts=False)}\n"
        for name, value in config.to_dict().items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(sections), encoding="utf-8")
    temporary.replace(path)
