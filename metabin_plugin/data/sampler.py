"""Mini-batches with equally many images of every domain (paper, Section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from fastreid.config import CfgNode, configurable
from fastreid.utils import comm
from torch.utils.data import Sampler

from metabin_plugin.config.table import Choice
from metabin_plugin.data.balance import Balance, group_images
from metabin_plugin.errors import ConfigError, DatasetError
from metabin_plugin.registries import SAMPLER_REGISTRY, registered, sampler_names


def build_registered_sampler(cfg: CfgNode, train_set: Any) -> Any:
    """Build the sampler that ``DATALOADER.SAMPLER_TRAIN`` names, if it is a registered one.

    Args:
        cfg: a fastreid config.
        train_set: the training images, a fastreid ``CommDataset``.

    Returns:
        The sampler, or None if the name is that of one of fastreid's own.

    Raises:
        ConfigError: no sampler has this name, or fastreid's would never fill a batch.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name in registered(SAMPLER_REGISTRY):
        return SAMPLER_REGISTRY.get(name)(cfg, train_set)
    Choice(sampler_names).check("DATALOADER.SAMPLER_TRAIN", name)
    _check_identities(cfg, train_set)
    _check_weights(cfg, train_set)
    return None


def _check_identities(cfg: CfgNode, train_set: Any) -> None:
    # With a batch that these two samplers cannot fill exactly they search for ever.
    if cfg.DATALOADER.SAMPLER_TRAIN not in ("NaiveIdentitySampler", "BalancedIdentitySampler"):
        return
    batch, instances = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_INSTANCE
    unit = instances * comm.get_world_size()
    if batch < unit or batch % unit:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, but with {cfg.DATALOADER.SAMPLER_TRAIN} it must be "
            f"a multiple of {unit}, DATALOADER.NUM_INSTANCE x processes; set it to "
            f"{max(1, batch // unit) * unit}."
        )
    needed = batch // instances
    if train_set.num_classes < needed:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} with DATALOADER.NUM_INSTANCE {instances} needs {needed} "
            f"identities, but the training images have {train_set.num_classes}; lower the first or "
            "raise the second."
        )


def _check_weights(cfg: CfgNode, train_set: Any) -> None:
    if cfg.DATALOADER.SAMPLER_TRAIN != "SetReWeightSampler":
        return
    # The sampler looks cameras up by their number, and fastreid's own datasets name them.
    weights = list(cfg.DATALOADER.SET_WEIGHT)
    if not weights or train_set.cams != list(range(len(weights))):
        raise ConfigError(
            "DATALOADER.SAMPLER_TRAIN is SetReWeightSampler, which needs cameras numbered from 0 "
            f"and one entry of DATALOADER.SET_WEIGHT for each, but there are {len(weights)} "
            f"entries and the first camera is {train_set.cams[0]!r}; choose another sampler"
        )
    unit = sum(weights) * cfg.DATALOADER.NUM_INSTANCE
    if unit < 1 or unit >= cfg.SOLVER.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH % unit:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, but with SetReWeightSampler it "
            f"must be a multiple of {unit}, the sum of DATALOADER.SET_WEIGHT x NUM_INSTANCE, and "
            "larger than it"
        )


def stream_seed(cfg: CfgNode) -> int:
    """Return ``METABIN.SEED``, or a random seed shared by all ranks if it is negative or missing.

    Args:
        cfg: a fastreid config.
    """
    seed = cfg.METABIN.SEED if "METABIN" in cfg else -1
    return seed if seed >= 0 else comm.shared_random_seed()


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
                f"DATALOADER.SAMPLER_TRAIN is {cls.__name__}, but a {type(dataset).__name__} has "
                "no domain labels; give the loader a metabin_plugin.data.DomainDataset."
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
