"""The feed: which images make batch number n, and their decoding, paid once for all networks.

The stream is a pure function of the configuration: batch ``position`` always holds the same images
with the same augmentation, whoever asks for it and whenever, so a resumed run goes on exactly.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from orchestrator.batch import Batch, pack_samples
from orchestrator.config import RunConfig
from orchestrator.datasets import aspect_flags
from orchestrator.errors import ConfigError, DataError

SampleKey = tuple[int, int]
"""(epoch, dataset index): what the randomness of a sample is seeded with, beside the run's seed."""


class BatchOrder:
    """The images of every global batch: a permutation per epoch, optionally grouped by aspect.

    The last batch of an epoch is filled up with that epoch's first images.

    Args:
        num_images: images of the training split.
        batch_size: images per global batch (all shards together).
        seed: the run's seed.
        wide: per image, whether it is wider than high; batches then do not mix the two (but the
            last ones of an epoch, made of what is left over).

    Raises:
        DataError: no images.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, wide: Sequence[bool] | None = None
    ) -> None:
        if num_images < 1:
            raise DataError("the training split has no usable image: see `colad data stats`")
        self.num_images, self.batch_size, self.seed, self.wide = num_images, batch_size, seed, wide
        self._cached: tuple[int, list[int]] = (-1, [])

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.num_images // self.batch_size)

    def epoch_of(self, position: int) -> int:
        """Epoch of global batch ``position``."""
        return position // self.batches_per_epoch

    def keys(self, position: int) -> list[SampleKey]:
        """(epoch, dataset index) of each image of global batch ``position``."""
        epoch, batch = divmod(position, self.batches_per_epoch)
        order = self._epoch_order(epoch)
        start = batch * self.batch_size
        indices = [order[i % len(order)] for i in range(start, start + self.batch_size)]
        return [(epoch, index) for index in indices]

    def _epoch_order(self, epoch: int) -> list[int]:
        if self._cached[0] != epoch:
            generator = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
            order = [int(i) for i in generator.permutation(self.num_images)]
            grouped = order if self.wide is None else self._group(order, generator)
            self._cached = (epoch, grouped)
        return self._cached[1]

    def _group(self, order: list[int], generator: np.random.Generator) -> list[int]:
        assert self.wide is not None
        groups = [[i for i in order if self.wide[i] == wide] for wide in (True, False)]
        size = self.batch_size
        whole = [g[s : s + size] for g in groups for s in range(0, len(g) - size + 1, size)]
        rest = [i for g in groups for i in g[len(g) // size * size :]]
        shuffled = [whole[int(i)] for i in generator.permutation(len(whole))]
        return [i for batch in shuffled for i in batch] + rest


@contextlib.contextmanager
def seeded(seed: int, key: SampleKey) -> Iterator[None]:
    """Seed python, numpy and torch for one sample, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    word = int(np.random.SeedSequence([seed, *key]).generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)
    torch.manual_seed(word)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class _SeededDataset(Dataset):
    """An mmdet dataset addressed by ``SampleKey``."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        index = key[1]
        try:
            with seeded(self.seed, key):
                return _checked(self.dataset[index])
        except ConfigError:
            raise
        except Exception as error:  # whatever the pipeline raises: name the image
            info = self.dataset.get_data_info(index)
            raise DataError(
                f"image {info.get('img_path')!r} (id {info.get('img_id')}) could not be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error


def _checked(sample: Any) -> dict[str, Any]:
    """A sample as ``PackDetInputs`` makes it, with boxes.

    Raises:
        ConfigError: the training pipeline leaves something out.
    """
    if not isinstance(sample, dict) or not {"inputs", "data_samples"} <= sample.keys():
        raise ConfigError("data.train_pipeline must end in PackDetInputs")
    if "bboxes" not in getattr(sample["data_samples"], "gt_instances", {}):
        raise ConfigError("data.train_pipeline needs LoadAnnotations with with_bbox=True")
    return sample


class _Positions:
    """Batch sampler: the shard's keys of positions start, start + 1, ... without end."""

    def __init__(self, order: BatchOrder, shard: int, num_shards: int, start: int) -> None:
        self.order, self.shard, self.num_shards, self.start = order, shard, num_shards, start

    def __iter__(self) -> Iterator[list[SampleKey]]:
        position = self.start
        while True:
            yield shard_of(self.order.keys(position), self.shard, self.num_shards)
            position += 1


def shard_of(keys: Sequence[SampleKey], shard: int, num_shards: int) -> list[SampleKey]:
    """The contiguous part of a global batch that shard ``shard`` of ``num_shards`` reads."""
    size = len(keys) // num_shards
    return list(keys[shard * size : (shard + 1) * size])


class Feeder:
    """Decodes one shard's batches. The Ray actor and the local runs share this class.

    Called by: the trainer, position after position. Another position than the next restarts the
    decoding there (a resumed run does it once).
    """

    def __init__(
        self,
        dataset: Any,
        order: BatchOrder,
        *,
        seed: int,
        shard: int = 0,
        num_shards: int = 1,
        workers: int = 0,
    ) -> None:
        self.order, self.shard, self.num_shards, self.workers = order, shard, num_shards, workers
        self._dataset = _SeededDataset(dataset, seed)
        self._next = -1
        self._iterator: Iterator[list[dict[str, Any]]] | None = None

    def batch(self, position: int) -> Batch:
        """Batch number ``position`` (0-based) of this shard.

        Raises:
            DataError: an image of the batch cannot be loaded (names the file).
        """
        if self._iterator is None or position != self._next:
            self._iterator = self._start(position)
        self._next = position + 1
        samples = next(self._iterator)
        epoch = self.order.epoch_of(position)
        return pack_samples(samples, batch_id=f"{epoch}.{position}.{self.shard}")

    def _start(self, position: int) -> Iterator[list[dict[str, Any]]]:
        loader = DataLoader(
            self._dataset,
            batch_sampler=_Positions(self.order, self.shard, self.num_shards, position),
            num_workers=self.workers,
            collate_fn=list,
            # its own generator: the loader would otherwise draw from the process's
            generator=torch.Generator().manual_seed(0),
        )
        return iter(loader)


def batch_order(config: RunConfig, dataset: Any) -> BatchOrder:
    """The order of a run's batches over an mmdet training dataset."""
    wide = aspect_flags(dataset) if config.data.group_by_aspect else None
    return BatchOrder(len(dataset), config.train.batch_size, config.seed, wide)
