"""Which images a batch has and how each is augmented, as functions of seeds and batch number."""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from metabin_plugin.data.passes import Passes, PassStart, has_passes
from metabin_plugin.data.sampler import DomainBalancedSampler
from metabin_plugin.random_state import PrivateRandomness, isolated, mix_seeds, reseed

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 5.0


class Draw(NamedTuple):
    """One image of a batch.

    Attributes:
        batch: number of the batch in its stream, from 0.
        image: index of the image in the dataset.
        occurrence: how many images of the batch before this one are the same.
    """

    batch: int
    image: int
    occurrence: int


class StreamSeeds(NamedTuple):
    """What a stream of batches depends on, beside the data.

    Attributes:
        augmentation: not negative.
        sampler: the sampler's ``_seed``; None for a sampler without one.
    """

    augmentation: int
    sampler: int | None


def sampler_seed(batch_sampler: Any) -> int | None:
    """Return the seed of a batch sampler's sampler, which fastreid's keep as ``_seed``."""
    seed = getattr(getattr(batch_sampler, "sampler", None), "_seed", None)
    return None if seed is None else int(seed)


def draw_batches(
    batch_sampler: Any, seeds: StreamSeeds, position: int, starts: list[PassStart]
) -> Iterator[list[Draw]]:
    """Draw the batches of a stream from one of them on.

    fastreid's samplers seed the generators of the whole process and draw from them: here they
    neither disturb the process nor are disturbed by it. The given sampler is left as it is.

    Args:
        batch_sampler: yields the dataset indices of each batch.
        seeds: seeds of the stream.
        position: number of the first batch to yield. ``DomainBalancedSampler`` jumps there,
            fastreid's identity samplers to the start of the pass, and the rest of the way the
            sampler is run forward. The log says so where that takes long.
        starts: starts of passes that are known, of which those of the stream are used; afterwards
            those that were drawn from.

    Yields:
        The images of each batch.
    """
    randomness = PrivateRandomness(mix_seeds(*seeds))
    batches = _batches_from(batch_sampler, seeds.sampler, position, starts)
    for number in itertools.count(position):
        with randomness:
            indices = next(batches, None)
        if indices is None:
            return
        yield _number_draws(indices, number)


def _number_draws(indices: Sequence[int], number: int) -> list[Draw]:
    seen: Counter[int] = Counter()
    draws = []
    for index in map(int, indices):
        draws.append(Draw(number, index, seen[index]))
        seen[index] += 1
    return draws


def _batches_from(
    batch_sampler: Any, seed: int | None, position: int, starts: list[PassStart]
) -> Iterator[Sequence[int]]:
    ahead = position
    if seed is not None and has_passes(batch_sampler):
        passes = Passes(batch_sampler.sampler, seed)
        start = passes.latest(starts, position)
        starts.clear()
        ahead -= start.batch if start is not None else 0
        return _run_forward(passes.batches(start, starts.append), ahead, position)
    if seed is not None and sampler_seed(batch_sampler) is not None:
        batch_sampler = copy.copy(batch_sampler)
        sampler = batch_sampler.sampler = copy.copy(batch_sampler.sampler)
        sampler._seed = seed
        # Its batches and the loader's may differ in size where a program brings its own sampler.
        if isinstance(sampler, DomainBalancedSampler) and batch_sampler.batch_size == len(
            sampler.batch(0)
        ):
            sampler.start_batch += position
            ahead = 0
    return _run_forward(batch_sampler, ahead, position)


def _run_forward(batches: Any, count: int, position: int) -> Iterator[Sequence[int]]:
    """The batches after the first ``count``, which end before number ``position``."""
    said = time.monotonic()
    stream = iter(batches)
    for left in range(count, 0, -1):
        if time.monotonic() - said >= _REPORT_SECONDS:
            done = 100 * (position - left) // position
            logger.info("Running the sampler forward to batch %d: %d %%", position, done)
            said = time.monotonic()
        if next(stream, None) is None:
            return
    yield from stream


class SeededImages(Dataset[Any]):
    """A dataset whose items are augmented by the random numbers of their draw.

    Loader workers and the position in the stream have no part in them, and the generators of the
    process are left as they were.

    Args:
        dataset: the images, by index.
        seeds: seeds of the stream.
    """

    def __init__(self, dataset: Any, seeds: StreamSeeds) -> None:
        self._dataset = dataset
        self._seeds = seeds

    def __getitems__(self, draws: Sequence[Draw]) -> list[Any]:
        """Return the dataset's items of a batch; PyTorch's loaders prefer this to single ones."""
        with isolated(mix_seeds(*self._seeds)):
            return [self._item(draw) for draw in draws]

    def _item(self, draw: Draw) -> Any:
        reseed(mix_seeds(*self._seeds, *draw))
        return self._dataset[draw.image]
