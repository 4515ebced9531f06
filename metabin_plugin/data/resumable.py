"""A training loader whose stream of batches can be continued exactly."""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from metabin_plugin.compat.data import DeviceDataLoader, DevicePrefetcher
from metabin_plugin.data.passes import Passes, PassStart, has_passes, read_start
from metabin_plugin.data.sampler import DomainBalancedSampler
from metabin_plugin.random_state import PrivateRandomness, isolated, mix_seeds, reseed
from metabin_plugin.text import shown
from metabin_plugin.workers import WorkerBatches, WorkerLoader

logger = logging.getLogger(__name__)

_SEEDS = 2**63
# fastreid's samplers seed NumPy's generator.
_SAMPLER_SEEDS = 2**32
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


class ResumableLoader(DeviceDataLoader):
    """A training loader whose batch number b is a function of the data, its seeds and b alone.

    Neither the number of workers nor an interruption changes it, nor, with
    ``DomainBalancedSampler``, the number of processes that share a batch. The random generators
    of the training process are not touched. Each iteration over the loader starts the same stream
    from its beginning. A transform that remembers earlier images (``INPUT.RPT``, fastreid's random
    patches) is the exception: its memory is that of a worker, and lost with it.

    Args:
        loader: fastreid's training loader, which gives data, sampler and settings.
        seed: seed of the augmentation, not negative and the same on all ranks. Loaders that share
            it and differ in the sampler's seed augment differently.
    """

    def __init__(self, loader: DeviceDataLoader, seed: int) -> None:
        super().__init__(
            loader.local_rank,
            loader.device,
            dataset=loader.dataset,
            batch_sampler=loader.batch_sampler,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
        )
        self.seed = seed

    def __iter__(self) -> ResumableBatches:  # type: ignore[override]
        return ResumableBatches(self)

    def start(self, seeds: StreamSeeds, position: int, starts: list[PassStart]) -> Iterator[Any]:
        """Start the workers on a stream.

        Args:
            seeds: seeds of the stream.
            position: number of the first batch.
            starts: starts of the sampler's passes, as for ``draw_batches``.

        Returns:
            PyTorch's iterator; its batches are on the CPU.
        """
        return iter(
            WorkerLoader(
                dataset=SeededImages(self.dataset, seeds),
                batch_sampler=draw_batches(self.batch_sampler, seeds, position, starts),
                num_workers=self.num_workers,
                collate_fn=self.collate_fn,
                pin_memory=self.pin_memory,
                # It would draw a seed for its workers from the generator of the process.
                generator=torch.Generator(),
            )
        )


class ResumableBatches(Iterator[Any]):
    """The batches of a ``ResumableLoader``, on its device, and where one is among them.

    Workers start with ``start`` or the first batch asked for, and end with the last, with an
    exception, with ``close`` or with this object.

    Args:
        loader: the loader.

    Attributes:
        position: number of batches delivered since the start of the stream.
    """

    def __init__(self, loader: ResumableLoader) -> None:
        self._batches: Iterator[Any] | None = None
        self._workers: WorkerBatches | None = None
        self._loader = loader
        self._starts: list[PassStart] = []
        self._seeds = StreamSeeds(loader.seed, sampler_seed(loader.batch_sampler))
        self.position = 0

    @property
    def seed(self) -> int:
        """Seed of the augmentation."""
        return self._seeds.augmentation

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            StopIteration: the sampler has no more batches.
            DatasetError: an image cannot be read.
        """
        try:
            batch = next(self.start())
        except BaseException:
            self.close()
            raise
        self.position += 1
        return batch

    def start(self) -> Iterator[Any]:
        """Start the workers at ``position`` where none are running; can take long there.

        Returns:
            The batches from there on.
        """
        if self._batches is None:
            self._batches = self._start()
        return self._batches

    def close(self) -> None:
        """End the workers; the next batch asked for starts new ones at ``position``."""
        self._batches = None
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def __del__(self) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the seeds and the position, all that the rest of the stream depends on.

        With fastreid's identity samplers there is ``sampler_pass`` too, the ``PassStart`` before
        the position as a dictionary: a shorter way there.
        """
        state: dict[str, Any] = {
            "seed": self._seeds.augmentation,
            "sampler_seed": self._seeds.sampler,
            "position": self.position,
        }
        # The workers are ahead, in a later pass perhaps.
        passed = [start for start in self._starts if start.batch <= self.position]
        if passed:
            state["sampler_pass"] = passed[-1]._asdict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the stream of a ``state_dict``, over the same data with the same settings.

        Args:
            state: what ``state_dict`` returned, in this or an earlier version.

        Raises:
            ValueError: it is not a state of such a stream.
        """
        check_position(state)
        known = state.get("sampler_pass")
        starts = [] if known is None else [read_start(known)]
        self.close()
        self._seeds = StreamSeeds(state["seed"], state["sampler_seed"])
        self.position = state["position"]
        self._starts = starts

    def _start(self) -> Iterator[Any]:
        batches = self._loader.start(self._seeds, self.position, self._starts)
        if isinstance(batches, WorkerBatches):
            self._workers = batches
        device = self._loader.device
        if device.type == "cpu":
            return batches
        # A thread would run the sampler beside the training, on the same generators.
        return DevicePrefetcher(batches, device, depth=0)


def check_position(state: Any, most: int | None = None) -> None:
    """Refuse what ``ResumableBatches.state_dict`` does not return.

    Args:
        state: plain values, of a checkpoint.
        most: the largest position; None for any.

    Raises:
        ValueError: the text names the entry.
    """
    match state:
        case {"seed": int(seed), "sampler_seed": sampler, "position": int(position)}:
            pass
        case _:
            raise ValueError("is not two seeds and a position")
    if not 0 <= seed < _SEEDS or not (
        sampler is None or (type(sampler) is int and 0 <= sampler < _SAMPLER_SEEDS)
    ):
        raise ValueError(f"has seeds that no run has: {seed}, {shown(repr(sampler))}")
    if position < 0 or (most is not None and position > most):
        raise ValueError(f"has the position {position} in the stream of batches")
    if state.get("sampler_pass") is not None:
        read_start(state["sampler_pass"])


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


def sampler_seed(batch_sampler: Any) -> int | None:
    """Return the seed of a batch sampler's sampler, which fastreid's keep as ``_seed``."""
    seed = getattr(getattr(batch_sampler, "sampler", None), "_seed", None)
    return None if seed is None else int(seed)


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
