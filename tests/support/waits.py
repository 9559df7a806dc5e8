"""What a GPU would make the host wait for, counted on a CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::_unique2"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
TO_HOST = {"cpu", "numpy", "tolist"}
SUBSCRIPTS = {"__getitem__", "__setitem__"}


def _any_mask(indices: Sequence[Any]) -> bool:
    """Whether there is a boolean mask among them, of which torch takes the ``nonzero``."""
    return any(index is not None and index.dtype == torch.bool for index in indices)


class Operations(TorchDispatchMode):
    """Counts operations whose result decides a shape or comes to the host as a number.

    ``waits`` by name; ``operations`` counts all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.name().partition(".")[0], kwargs or {}
        self.operations += 1
        waits = name in WAITING or (name in INDEXING and _any_mask(args[1]))
        if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            waits = True
        self.waits[name] += waits
        return func(*args, **kwargs)


class Copies(TorchFunctionMode):
    """Counts copies between host and device, by the name of the call.

    They are operations on a GPU only, so the calls themselves are watched: tensors made of numbers,
    lists as indices, ``to`` a device, and what returns the whole tensor to the host. ``to`` with a
    dtype is a conversion where it stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        self.copies[name] += self._copies(name, args, kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _copies(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        if name in ("tensor", "as_tensor"):
            return kwargs.get("device") is not None
        if name in SUBSCRIPTS:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return any(isinstance(part, list) for part in index)
        if name == "to":
            given = [*args[1:], *kwargs.values()]
            to_device = any(isinstance(value, (torch.device, str)) for value in given)
            converts = any(isinstance(value, torch.dtype) for value in given)
            return to_device and not converts and not kwargs.get("non_blocking", False)
        return name in TO_HOST or name in ("new_tensor", "cuda")


class Waits:
    """Both of these over a block of code.

    >>> with Waits() as waits:
    ...     step()
    >>> waits.counts
    {'nonzero': 1}
    """

    def __enter__(self) -> Waits:
        self._operations, self._copies = Operations(), Copies()
        self._operations.__enter__()
        self._copies.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._copies.__exit__(*error)
        self._operations.__exit__(*error)

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of operation or call waited; none that did not."""
        found = self._operations.waits + self._copies.copies
        return {name.removeprefix("aten::"): count for name, count in found.items() if count}

    @property
    def operations(self) -> int:
        """All operations, waiting or not."""
        return self._operations.operations
