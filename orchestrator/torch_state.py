"""torch's global state around a network: device, precision, random numbers, train and eval mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ResourceError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(requested_gpus: float) -> str:
    """The torch device of an actor that Ray gave ``requested_gpus`` GPUs.

    Raises:
        ResourceError: CUDA is there but shows no device.
    """
    if requested_gpus <= 0 or not torch.cuda.is_available():
        return "cpu"
    if torch.cuda.device_count() == 0:
        raise ResourceError("a GPU was assigned but CUDA shows no device: see `colad doctor`")
    return "cuda"


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """torch's autocast for ``train.precision``."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@contextlib.contextmanager
def sound_convolutions(precision: str, device: torch.device) -> Iterator[None]:
    """Keep half-precision convolutions on the CPU away from oneDNN.

    Its weight gradient of a strided convolution over a 1 x 1 map is uninitialised memory
    (torch 2.13, bfloat16): another value at every call, sometimes NaN.
    """
    before = torch.backends.mkldnn.enabled
    if precision in AUTOCAST and device.type == "cpu":
        torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def scheduler_state(scheduler: Any) -> dict[str, Any]:
    """A scheduler's numbers; functions among its attributes follow from its configuration."""
    return {key: value for key, value in scheduler.state_dict().items() if not callable(value)}


class RngState:
    """This network's torch random state, apart from the process's (networks may share one)."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self._cpu = torch.Generator().manual_seed(seed).get_state()
        self._cuda: Tensor | None = None
        if device.type == "cuda":
            self._cuda = torch.Generator(device).manual_seed(seed).get_state()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Swap this network's random state in; take it out, advanced, at the end."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            outside_cuda = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self._cuda, self.device)
        try:
            yield
        finally:
            self._cpu = torch.get_rng_state()
            torch.set_rng_state(outside)
            if self._cuda is not None:
                self._cuda = torch.cuda.get_rng_state(self.device)
                torch.cuda.set_rng_state(outside_cuda, self.device)

    def state(self) -> dict[str, Tensor]:
        cuda = {} if self._cuda is None else {"cuda": self._cuda}
        return {"cpu": self._cpu, **cuda}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._cpu = state["cpu"].cpu()
        if self._cuda is not None and "cuda" in state:
            self._cuda = state["cuda"].cpu()


@contextlib.contextmanager
def evaluating(detector: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every submodule's own mode is restored afterwards.

    (A frozen stage is in eval mode while its detector trains, so one flag is not enough.)
    """
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
