"""The ranks of one network: gradient averaging and the few collective sums of a step."""

from __future__ import annotations

import contextlib
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

COLLECTIVE_TIMEOUT_S = 1800.0
"""A rank that waits longer for another one gives up (an evaluation may lie in between)."""


def free_address(host: str) -> str:
    """``host:port`` with a port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


class RankGroup:
    """This process as one of several ranks of one network (the process's default group).

    Args:
        rank: 0..world_size-1.
        world_size: ranks of the network.
        address: ``host:port`` of rank 0's rendezvous store.
        device: where this rank's network lives; decides nccl or gloo.
    """

    def __init__(self, rank: int, world_size: int, address: str, device: torch.device) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{address}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
        )

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """``module`` with gradients averaged over ranks in its backward pass.

        Every trainable parameter must enter every loss (times 0 where idle); an unused one is an
        error of torch at the next step, not a silent wait.
        """
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=False)

    @staticmethod
    def no_sync(module: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Keep gradients local; must hold from the forward to the backward pass."""
        assert isinstance(module, DistributedDataParallel)
        return module.no_sync()

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks; the same bits on every rank."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Tensor) -> Tensor:
        """(n_r, ...) tensors of all ranks (n_r may differ), concatenated in rank order."""
        size = torch.tensor([value.shape[0]], device=value.device)
        sizes = [torch.zeros_like(size) for _ in range(self.world_size)]
        dist.all_gather(sizes, size)
        lengths = [int(s) for s in sizes]
        padded = value.new_zeros((max(lengths), *value.shape[1:]))
        padded[: value.shape[0]] = value
        parts = [torch.zeros_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, lengths)])

    def share_buffers(self, module: nn.Module) -> None:
        """Give every rank rank 0's buffers (running statistics), which are the ones saved."""
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)

    @staticmethod
    def close() -> None:
        """Leave the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()
