"""A training loader whose stream of batches can be continued exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from metabin_plugin.compat.data import DeviceDataLoader, DevicePrefetcher
from metabin_plugin.data.passes import (
    PassStart,
    SeededImages,
    StreamSeeds,
    draw_batches,
    read_start,
    sampler_seed,
)
from metabin_plugin.text import shown
from metabin_plugin.workers import WorkerBatches, WorkerLoader

_SEEDS = 2**63
# fastreid's samplers seed NumPy's generator.
_SAMPLER_SEEDS = 2**32


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
