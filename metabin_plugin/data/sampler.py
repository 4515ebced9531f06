"""Batches with equally many images of every domain (paper, Section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from fastreid.config import CfgNode, configurable
from fastreid.utils import comm
from torch import Tensor
from torch.utils.data import Sampler

from metabin_plugin.data.domains import require_domains
from metabin_plugin.errors import ConfigError, DatasetError, MetaBINError
from metabin_plugin.ranking import distance_chunks
from metabin_plugin.text import shown

# Spawn keys that keep the random streams of one seed apart.
_IDENTITIES, _IMAGES, _ANCHORS, _NODES = range(4)
# Of METABIN.SEED, and of what is drawn where that is negative.
_SEEDS = 2**32


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
        require_domains(dataset, f"DATALOADER.SAMPLER_TRAIN is {cls.__name__!r}")
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


class Nodes(NamedTuple):
    """What a graph of identities is made of.

    Attributes:
        identities: for each domain, numbers of its identities in the graph, ascending.
        images: an image of each, the dataset's index; domain by domain.
    """

    identities: list[np.ndarray]
    images: list[int]


class GraphSampler(DomainBalancedSampler):
    """``DomainBalancedSampler`` whose identities of a domain look alike.

    After Liao and Shao, "Graph Sampling Based Deep Metric Learning for Generalizable Person
    Re-Identification", CVPR 2022: the identities are the nodes of a graph, and a batch is an
    identity with its nearest ones. Here the graph is one of each domain, and so each domain's part
    of a batch is an identity, the anchor, with its nearest ones in the same domain. Every identity
    of a graph is an anchor once per pass over them. Without a graph the identities are drawn as by
    ``DomainBalancedSampler``.

    As there, an identity is described by the feature of one random image. Other than there,
    distances are those of the network's own features, and a graph has at most
    ``max_identities`` of a domain's identities, drawn anew for each graph, so that what it costs is
    bounded; the others wait for another graph.

    A batch depends on the seed, its number and the graph alone. ``GraphHook`` makes the graphs.

    Args:
        identities: see ``DomainBalancedSampler``, as for all others but the last.
        domains: see there.
        batch_size: see there.
        num_instances: see there.
        seed: see there.
        rank: see there.
        world_size: see there.
        max_identities: of a domain in a graph.
        domain_names: see there.

    Attributes:
        graph: for each domain, rows of numbers of its identities: an identity and its nearest ones,
            as many as a batch has of the domain. None at first.

    Raises:
        DatasetError: see ``DomainBalancedSampler``.
        ConfigError: see there; or a graph has fewer identities than a batch.
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
        max_identities: int = 256,
        domain_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            identities,
            domains,
            batch_size,
            num_instances,
            seed,
            rank,
            world_size,
            domain_names=domain_names,
        )
        if max_identities < self._slots:
            raise ConfigError(
                f"METABIN.GRAPH_SAMPLER.MAX_IDENTITIES is {max_identities!r}, but a batch has "
                f"{self._slots} identities of each domain; raise it to that or more"
            )
        self._max_identities = max_identities
        self.graph: list[np.ndarray] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset: Any) -> dict[str, Any]:
        """Return the constructor's arguments for a fastreid config and a ``DomainDataset``."""
        most = cfg.METABIN.GRAPH_SAMPLER.MAX_IDENTITIES
        return {**super().from_config(cfg, dataset), "max_identities": most}

    def draw_nodes(self, number: int) -> Nodes:
        """Draw the identities of a graph, and the images that describe them.

        Args:
            number: number of the graph, from 0; what is drawn depends on it and the seed alone.
        """
        rng = self._rng(_NODES, number)
        identities = [
            np.sort(rng.permutation(len(images))[: self._max_identities]) for images in self._images
        ]
        chosen = [
            int(rng.choice(images[identity]))
            for images, own in zip(self._images, identities, strict=True)
            for identity in own
        ]
        return Nodes(identities, chosen)

    def connect(self, nodes: Nodes, features: Tensor) -> None:
        """Make the graph of the next batches.

        Args:
            nodes: of ``draw_nodes``.
            features: of their images (N, D).
        """
        sizes = [len(own) for own in nodes.identities]
        self.graph = [
            own[nearest(part, self._slots).numpy()]
            for own, part in zip(nodes.identities, features.split(sizes), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The seed and the graph: on what, beside the data, the batches depend."""
        graph = None if self.graph is None else [torch.from_numpy(rows) for rows in self.graph]
        return {"seed": self._seed, "graph": graph}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: it is not one of a sampler of these data; nothing has changed.
        """
        seed, graph = state["seed"], state["graph"]
        if type(seed) is not int or not 0 <= seed < _SEEDS:
            raise ValueError(f"has the seed {shown(repr(seed))}, which no run has")
        if graph is not None:
            if not isinstance(graph, list) or len(graph) != len(self._images):
                raise ValueError(f"graph is not a list for {len(self._images)} domains")
            for domain, rows in enumerate(graph):
                if not self._has_rows(domain, rows):
                    raise ValueError(
                        f"graph[{domain}] is not rows of {self._slots} of the domain's "
                        f"{len(self._images[domain])} identities"
                    )
        self._seed = seed
        self.graph = None if graph is None else [rows.numpy().copy() for rows in graph]

    def _has_rows(self, domain: int, rows: Any) -> bool:
        if not isinstance(rows, Tensor) or rows.dtype is not torch.int64 or rows.dim() != 2:
            return False
        in_order = rows.sort(1).values
        return (
            rows.shape[1] == self._slots
            and 1 <= len(rows) <= len(self._images[domain])
            and bool((in_order[:, 1:] > in_order[:, :-1]).all())
            and int(in_order[:, 0].min()) >= 0
            and int(in_order[:, -1].max()) < len(self._images[domain])
        )

    def _identities(self, domain: int, number: int) -> list[int]:
        if self.graph is None:
            return super()._identities(domain, number)
        rows = self.graph[domain]
        turn, place = divmod(number, len(rows))
        anchor = self._rng(_ANCHORS, domain, turn).permutation(len(rows))[place]
        return rows[anchor].tolist()


def nearest(features: Tensor, count: int) -> Tensor:
    """The nearest rows of each row by cosine distance.

    Args:
        features: (N, D).
        count: how many, at most N.

    Returns:
        Numbers of rows (N, count): each row's own, then the others in the order of their distance;
        of equal ones the lower number is first.
    """
    found = []
    own = 0
    for chunk in distance_chunks(features, features, "cosine"):
        rows = torch.arange(len(chunk))
        chunk[rows, own + rows] = -torch.inf
        found.append(chunk.argsort(dim=1, stable=True)[:, :count])
        own += len(chunk)
    return torch.cat(found)


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
        "are needed; add images of other people to it, or leave its images out"
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
