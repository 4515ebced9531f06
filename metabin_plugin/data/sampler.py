"""Batches with equally many images of every domain (paper, Section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastreid.config import CfgNode, configurable
from fastreid.utils import comm
from torch.utils.data import Sampler

from metabin_plugin.errors import ConfigError, DatasetError, MetaBINError
from metabin_plugin.text import shown

# Spawn keys that keep the random streams of one seed apart.
_IDENTITIES, _IMAGES = 0, 1


class DomainBalancedSampler(Sampler[int]):
    """Endless stream of dataset indices whose every batch is balanced over the domains.

    A batch holds ``batch_size / K`` images of each of the K domains, as distinct identities with
    ``num_instances`` images each ("16 samples individually from five source domains", Section
    4.1). An identity that is seen in two domains counts as one identity in each of them. Within a
    domain every identity comes once per pass, except the few at the end of a pass that do not
    fill a batch. An identity with too few images gives all of them and repeats some.

    Each rank gets whole identities of every domain. The batch with number ``b`` depends on
    ``(seed, b)`` alone, so a resumed run goes on where it stopped, and any number of ranks draws
    the same global batches.

    It is called either as below or, as fastreid's configurable classes are, with
    ``(cfg, dataset)``, where ``dataset`` is a ``DomainDataset``.

    Args:
        identities: identity of every image, any sortable labels.
        domains: domain of every image, any sortable labels.
        batch_size: images in the global batch, over all ranks.
        num_instances: images of each identity in a batch.
        seed: not negative, and the same on all ranks.
        rank: number of this process, in [0, world_size).
        world_size: number of processes.
        domain_names: names of the domains, in the order of their labels, for the error texts.
        batch_key: config key of the batch size, for the error texts.

    Attributes:
        start_batch: number of the first batch of the next iteration over the sampler.
        batch_size: images in the global batch.

    Raises:
        DatasetError: no images, sequences of different lengths, or a domain with one identity.
        ConfigError: a batch that cannot be shared out evenly, or that needs more identities than
            a domain has.
    """

    @configurable
    def __init__(
        self,
        identities: Sequence[Any],
        domains: Sequence[Any],
        batch_size: int,
        num_instances: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        domain_names: Sequence[str] | None = None,
        batch_key: str = "SOLVER.IMS_PER_BATCH",
    ) -> None:
        super().__init__()
        images = group_images(identities, domains)
        names = domain_names or [str(domain) for domain in sorted(set(domains))]
        balance = Balance(batch_size, num_instances, world_size, batch_key)
        balance.check_divisible(len(images))
        balance.check_identities({n: len(d) for n, d in zip(names, images, strict=True)})
        self.batch_size = batch_size
        self.start_batch = 0
        self._images = images
        self._slots = balance.slots(len(images))
        self._num_instances = num_instances
        self._seed = seed
        share = self._slots // world_size
        self._own_slots = slice(rank * share, (rank + 1) * share)

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset: Any) -> dict[str, Any]:
        """Return the constructor's arguments for a fastreid config and a ``DomainDataset``.

        The seed is ``METABIN.SEED``, or a random one shared by all ranks if that is negative.
        """
        if not hasattr(dataset, "domains"):
            raise DatasetError(
                f"DATALOADER.SAMPLER_TRAIN is {cls.__name__!r}, but a {type(dataset).__name__} has "
                "no domain labels; give the loader a metabin_plugin.data.DomainDataset"
            )
        return {
            "identities": [item[1] for item in dataset.img_items],
            "domains": dataset.domains,
            "batch_size": cfg.SOLVER.IMS_PER_BATCH,
            "num_instances": cfg.DATALOADER.NUM_INSTANCE,
            "seed": stream_seed(cfg),
            "rank": comm.get_rank(),
            "world_size": comm.get_world_size(),
            "domain_names": dataset.domain_names,
        }

    def batch(self, number: int) -> list[int]:
        """Return this rank's share of a batch, domain by domain and identity by identity.

        Args:
            number: number of the batch, from 0.

        Returns:
            ``batch_size / world_size`` dataset indices.
        """
        # All ranks draw the images of the whole batch: it must not depend on their number.
        rng = self._rng(_IMAGES, number)
        indices: list[int] = []
        for domain, images in enumerate(self._images):
            chosen = self._identities(domain, number)
            drawn = [self._draw_images(rng, images[identity]) for identity in chosen]
            indices += [index for group in drawn[self._own_slots] for index in group]
        return indices

    def __iter__(self) -> Iterator[int]:
        number = self.start_batch
        while True:
            yield from self.batch(number)
            number += 1

    def _identities(self, domain: int, number: int) -> list[int]:
        count = len(self._images[domain])
        turn, place = divmod(number, count // self._slots)
        order = self._rng(_IDENTITIES, domain, turn).permutation(count)
        return order[place * self._slots : (place + 1) * self._slots].tolist()

    def _draw_images(self, rng: np.random.Generator, images: np.ndarray) -> list[int]:
        missing = max(self._num_instances - len(images), 0)
        first = rng.choice(images, self._num_instances - missing, replace=False)
        return np.concatenate([first, rng.choice(images, missing)]).tolist()

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))


def stream_seed(cfg: CfgNode) -> int:
    """Return ``METABIN.SEED``, or a random seed shared by all ranks if it is negative or missing.

    Args:
        cfg: a fastreid config.
    """
    seed = cfg.METABIN.SEED if "METABIN" in cfg else -1
    return seed if seed >= 0 else comm.shared_random_seed()


@dataclass(frozen=True)
class Balance:
    """Sizes of a domain-balanced batch.

    Attributes:
        batch_size: images in the global batch, over all ranks.
        num_instances: images of each identity.
        world_size: number of processes.
        batch_key: config key of ``batch_size``, for the error texts.
    """

    batch_size: int
    num_instances: int
    world_size: int
    batch_key: str

    def slots(self, num_domains: int) -> int:
        """Return the number of identities of each domain in the global batch."""
        return self.batch_size // (num_domains * self.num_instances)

    def check_divisible(self, num_domains: int) -> None:
        """Raise ConfigError unless all ranks get the same number of identities of each domain."""
        if self.num_instances < 1:
            raise ConfigError(
                f"DATALOADER.NUM_INSTANCE is {self.num_instances!r}; set it to 1 or more"
            )
        unit = num_domains * self.num_instances * self.world_size
        if self.batch_size < 1 or self.batch_size % unit:
            below = self.batch_size // unit * unit
            choices = f"{below} or {below + unit}" if below > 0 else str(unit)
            raise ConfigError(
                f"{self.batch_key} is {self.batch_size!r}, but it must be a multiple of {unit} = "
                f"{num_domains} domains x {self.num_instances} (DATALOADER.NUM_INSTANCE) x "
                f"{self.world_size} processes; set it to {choices}"
            )

    def check_identities(self, counts: Mapping[str, int]) -> None:
        """Raise an error unless every domain has enough identities for a batch.

        Args:
            counts: number of identities by name of the domain.

        Raises:
            DatasetError: a domain has one identity, so nothing to tell it from.
            ConfigError: a domain has fewer identities than a batch needs.
        """
        for fault in self.small_domains(counts):
            raise fault

    def small_domains(self, counts: Mapping[str, int]) -> Iterator[MetaBINError]:
        """Give the errors of all domains that ``check_identities`` would refuse.

        Args:
            counts: number of identities by name of the domain.
        """
        slots = self.slots(len(counts))
        for name, count in counts.items():
            if count < 2:
                yield too_few_identities(name, count)
            elif count < slots:
                yield ConfigError(
                    f"{self.batch_key} {self.batch_size} with DATALOADER.NUM_INSTANCE "
                    f"{self.num_instances} needs {slots} identities of each of the {len(counts)} "
                    f"domains, but domain {shown(repr(name))} has {count}; lower the first or "
                    "raise the second"
                )


def too_few_identities(name: str, count: int) -> DatasetError:
    """The error of a domain with less than two identities, whatever the batch."""
    return DatasetError(
        f"Domain {shown(repr(name))} has {count} identity in its training images, but at least 2 "
        "are needed; remove it from DATASETS.NAMES or add images of other people"
    )


def group_images(identities: Sequence[Any], domains: Sequence[Any]) -> list[list[np.ndarray]]:
    """Group image indices by domain and, within it, by identity, both in sorted order.

    Args:
        identities: identity of every image.
        domains: domain of every image.

    Returns:
        For each domain and each of its identities, the indices of its images.

    Raises:
        DatasetError: there are no images, or the two sequences differ in length.
    """
    if len(identities) != len(domains):
        raise DatasetError(
            f"There are {len(identities)} identities but {len(domains)} domains; give one of each "
            "for every image"
        )
    if not len(identities):
        raise DatasetError("There are no training images; name a dataset in DATASETS.NAMES")
    groups: dict[Any, dict[Any, list[int]]] = {}
    for index, (identity, domain) in enumerate(zip(identities, domains, strict=True)):
        groups.setdefault(domain, {}).setdefault(identity, []).append(index)
    return [
        [np.array(images) for _, images in sorted(groups[domain].items())]
        for domain in sorted(groups)
    ]
