"""fastreid's identity samplers pass by pass: the same batches, fast, and from any pass on.

Within a stream without end these samplers start anew, but for their random generator, with every
pass over the identities. The generator at the start of a pass is all that the rest depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from fastreid.data.samplers import BalancedIdentitySampler, NaiveIdentitySampler
from numpy.random import RandomState
from torch import Tensor

from metabin_plugin.random_state import is_twister_state, mix_seeds


class PassStart(NamedTuple):
    """Where in a stream a pass begins.

    Attributes:
        data: a number that stands for the images, their identities and cameras, and the sizes: the
            start belongs to streams with the same one.
        batch: number of its first batch.
        key: state of NumPy's Mersenne Twister, 624 words.
        position: place in it.
    """

    data: int
    batch: int
    key: Tensor
    position: int


def read_start(state: Any) -> PassStart:
    """Read a start that a checkpoint holds as a dictionary.

    Args:
        state: plain values and tensors.

    Raises:
        ValueError: it is no such start.
    """
    match state:
        case {"data": int(), "batch": int(batch), "key": Tensor() as key, "position": int(place)}:
            if batch >= 0 and is_twister_state(key, place):
                return PassStart(state["data"], batch, key, place)
    raise ValueError("has a sampler_pass that is not the start of a pass")


class Passes:
    """The batches of a batch sampler over one of fastreid's identity samplers.

    Args:
        sampler: a ``NaiveIdentitySampler`` or ``BalancedIdentitySampler``.
        seed: the sampler's seed.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._draw = _PASSES[type(sampler)]
        share = sampler.batch_size // sampler._world_size
        self._own = slice(sampler._rank * share, (sampler._rank + 1) * share)
        images = [(item[1], item[2]) for item in sampler.data_source]
        sizes = (sampler.batch_size, sampler._world_size, sampler.num_instances)
        self._data = mix_seeds(type(sampler).__name__, *sizes, str(images)) % 2**63

    def latest(self, starts: Iterable[PassStart], position: int) -> PassStart | None:
        """The last start of this stream at or before a batch; None where there is none.

        Args:
            starts: of this or of other streams.
            position: number of the batch.
        """
        fitting = [s for s in starts if s.data == self._data and s.batch <= position]
        return max(fitting, key=lambda start: start.batch, default=None)

    def batches(
        self, start: PassStart | None, note: Callable[[PassStart], None]
    ) -> Iterator[list[int]]:
        """Draw this rank's batches.

        Args:
            start: the pass to start with; None for the first.
            note: hears of the start of every pass.

        Yields:
            The dataset indices of each batch.
        """
        random = RandomState(self._seed)
        number = 0
        if start is not None:
            number = start.batch
            words = {"key": start.key.numpy().astype(np.uint32), "pos": start.position}
            random.set_state(
                {"bit_generator": "MT19937", "state": words, "has_gauss": 0, "gauss": 0.0}
            )
        while True:
            state: Any = random.get_state(legacy=False)
            key = torch.from_numpy(state["state"]["key"].astype(np.int64))
            note(PassStart(self._data, number, key, int(state["state"]["pos"])))
            for batch in self._draw(self._sampler, random):
                yield batch[self._own]
                number += 1


def has_passes(batch_sampler: Any) -> bool:
    """Whether a batch sampler's stream can be drawn by ``Passes``.

    Args:
        batch_sampler: of any kind.
    """
    sampler: Any = getattr(batch_sampler, "sampler", None)
    if type(sampler) not in _PASSES:
        return False
    share = sampler.num_pids_per_batch * sampler.num_instances
    # Its batches and the loader's may differ in size where a program brings its own sampler.
    return bool(
        share == batch_sampler.batch_size and share * sampler._world_size == sampler.batch_size
    )


def _naive_pass(sampler: Any, random: RandomState) -> Iterator[list[int]]:
    """Identities, ``num_instances`` images at a time, until too few have images left."""
    left: dict[int, list[int]] = {}
    available = np.arange(len(sampler.pids))
    batch: list[int] = []
    while len(available) >= sampler.num_pids_per_batch:
        # What NumPy's choice() without replacement does, on places instead of identities.
        places = random.permutation(len(available))[: sampler.num_pids_per_batch]
        spent = []
        for place, identity in zip(places, available[places].tolist(), strict=True):
            if identity not in left:
                left[identity] = _shuffled(
                    sampler.pid_index[sampler.pids[identity]], sampler.num_instances, random
                )
            images = left[identity]
            batch += images[: sampler.num_instances]
            del images[: sampler.num_instances]
            if len(images) < sampler.num_instances:
                spent.append(place)
        available = np.delete(available, spent)
        if len(batch) == sampler.batch_size:
            yield batch
            batch = []


def _shuffled(images: list[int], at_least: int, random: RandomState) -> list[int]:
    images = list(images)
    if len(images) < at_least:
        images = random.choice(images, size=at_least, replace=True).tolist()
    random.shuffle(images)
    return images


def _balanced_pass(sampler: Any, random: RandomState) -> Iterator[list[int]]:
    """Every identity once, but for a rest that fills no batch; other cameras where there are."""
    identities = random.permutation(sampler.num_identities)
    per_batch = sampler.num_pids_per_batch * sampler._world_size
    batch: list[int] = []
    for identity in identities[: len(identities) // per_batch * per_batch].tolist():
        pid = sampler.pids[identity]
        images, cameras = sampler.pid_index[pid], sampler.pid_cam[pid]
        first = random.choice(images)
        camera = sampler.data_source[first][2]
        others = [place for place, other in enumerate(cameras) if other != camera]
        others = others or [place for place, image in enumerate(images) if image != first]
        places = [0] * (sampler.num_instances - 1)
        if others:
            replace = len(others) < sampler.num_instances
            places = random.choice(others, size=sampler.num_instances - 1, replace=replace).tolist()
        batch += [int(first), *(images[place] for place in places)]
        if len(batch) == sampler.batch_size:
            yield batch
            batch = []


_PASSES = {NaiveIdentitySampler: _naive_pass, BalancedIdentitySampler: _balanced_pass}
