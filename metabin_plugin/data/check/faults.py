"""What in the lists of images would spoil a run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yacs.config import CfgNode

from metabin_plugin.data.build import (
    Items,
    build_dataset,
    read_subset,
    splits_of,
    unmatched_queries,
)
from metabin_plugin.data.datasets.base import TargetDataset
from metabin_plugin.data.domains import DomainLabels, label_domains
from metabin_plugin.data.manifest import is_manifest
from metabin_plugin.data.sampler import Balance, too_few_identities
from metabin_plugin.errors import DatasetError, MetaBINError
from metabin_plugin.text import shown

TRAIN, QUERY, GALLERY = SUBSETS = ("train", "query", "gallery")


@dataclass(frozen=True)
class Subset:
    """Images of one subset of a dataset.

    Attributes:
        dataset: name of the dataset, as the config gives it.
        name: one of ``SUBSETS``.
        items: one ``(path, identity, camera)`` for each image.
        whole: a training list that holds the query and gallery images too, and is not trained on.
    """

    dataset: str
    name: str
    items: Items
    whole: bool = False

    def __str__(self) -> str:
        return f"{shown(self.dataset)} ({self.name})"


@dataclass(frozen=True)
class Collection:
    """All that could be loaded.

    Attributes:
        subsets: what is not empty.
        sources: name and dataset of those with training images.
        problems: why something could not be loaded.
        splits: query and gallery of each split of a target, by its name; ``subsets`` has the first.
        strangers: further queries of each split, by the target's name.
    """

    subsets: list[Subset] = field(default_factory=list)
    sources: list[tuple[str, Any]] = field(default_factory=list)
    problems: list[MetaBINError] = field(default_factory=list)
    splits: dict[str, Sequence[tuple[Items, Items]]] = field(default_factory=dict)
    strangers: dict[str, Sequence[Items]] = field(default_factory=dict)

    def paths(self) -> list[str]:
        """The images of all subsets and splits; some are there several times."""
        lists = [subset.items for subset in self.subsets]
        lists += [side for splits in self.splits.values() for split in splits for side in split]
        lists += [items for splits in self.strangers.values() for items in splits]
        return [item[0] for items in lists for item in items]

    def add(
        self, name: str, subsets: Sequence[str], key: str, *, required: bool, **kwargs: Any
    ) -> None:
        """Load subsets of a dataset, or add to ``problems`` why that fails.

        Args:
            name: as for ``build_dataset``.
            subsets: which to load.
            key: what named the dataset, for the error texts.
            required: whether each of the subsets must have images; otherwise one of them must.
            **kwargs: passed on to the dataset.
        """
        # A manifest's faulty lines must not hide one another, nor the rest of its images.
        if is_manifest(name):
            kwargs["on_fault"] = self.problems.append
        try:
            dataset = build_dataset(name, key=key, **kwargs)
            found = {subset: read_subset(dataset, name, subset, key=key) for subset in subsets}
        except MetaBINError as problem:
            self.problems.append(problem)
            return
        whole = not required and isinstance(dataset, TargetDataset)
        for subset, items in found.items():
            if items:
                self.subsets.append(Subset(name, subset, items, whole and subset == TRAIN))
        if found.get(QUERY) and found.get(GALLERY):
            self.splits[name] = splits_of(dataset)
            self.strangers[name] = getattr(dataset, "strangers", ())
        if found.get(TRAIN):
            self.sources.append((name, dataset))
        self._report_empty(name, key, [s for s in subsets if not found[s]], len(subsets), required)

    def label(self, kind: str) -> DomainLabels:
        """Domains of all training images; ``kind`` as for ``label_domains``."""
        return label_domains(self.sources, kind)

    def _report_empty(
        self, name: str, key: str, empty: list[str], asked: int, required: bool
    ) -> None:
        if empty and (required or len(empty) == asked):
            self.problems.append(
                DatasetError(
                    f"{key} lists {name!r}, which has no {' and no '.join(empty)} images; name "
                    "another dataset or add some"
                )
            )


def collect_configured(cfg: CfgNode) -> Collection:
    """Training images of ``DATASETS.NAMES``, query and gallery images of ``DATASETS.TESTS``."""
    collection = Collection()
    combine = {"combineall": cfg.DATASETS.COMBINEALL}
    for name in cfg.DATASETS.NAMES:
        collection.add(name, [TRAIN], "DATASETS.NAMES", required=True, **combine)
    for name in cfg.DATASETS.TESTS:
        collection.add(name, [QUERY, GALLERY], "DATASETS.TESTS", required=True)
    return collection


def collect_named(names: Sequence[str]) -> Collection:
    """All images of the named datasets and manifests."""
    collection = Collection()
    for name in dict.fromkeys(names):
        collection.add(name, SUBSETS, "--datasets", required=False)
    return collection


def repeated_images(subsets: Sequence[Subset]) -> Iterator[DatasetError]:
    """An error for each file that is listed more than once, by whatever path.

    A query image among the gallery images of its dataset is none: ``find_leaks`` looks at those.
    """
    listings: dict[str, list[tuple[Subset, str]]] = defaultdict(list)
    for subset in subsets:
        for item in subset.items:
            listings[os.path.realpath(item[0])].append((subset, item[0]))
    for found in listings.values():
        owners = [subset for subset, _ in found]
        if len(owners) > 1 and not _by_design(owners):
            yield DatasetError(
                f"Image {shown(found[0][1])} is listed {len(owners)} times: in "
                f"{', '.join(map(str, owners))}; keep one of them"
            )


def _by_design(owners: list[Subset]) -> bool:
    if len({owner.dataset for owner in owners}) > 1:
        return False
    names = [owner.name for owner in owners if not owner.whole]
    return len(set(names)) == len(names) and TRAIN not in names


def small_domains(
    domains: Mapping[str, int], batches: Iterable[Balance] | None
) -> Iterator[MetaBINError]:
    """An error for each domain, or for the batch, from which no balanced batch can be drawn.

    Args:
        domains: number of identities by name of the domain.
        batches: the balanced batches of the config; None if there is no config.
    """
    if batches is None:
        small = {name: count for name, count in domains.items() if count < 2}
        yield from (too_few_identities(name, count) for name, count in small.items())
        return
    for batch in batches if domains else ():
        try:
            batch.check_divisible(len(domains))
        except MetaBINError as fault:
            yield fault
        else:
            yield from batch.small_domains(domains)


def balanced_batches(cfg: CfgNode) -> list[Balance]:
    """The domain-balanced batches that a run in one process draws."""
    instances, node = cfg.DATALOADER.NUM_INSTANCE, cfg.METABIN
    sizes = {}
    if cfg.DATALOADER.SAMPLER_TRAIN in ("DomainBalancedSampler", "GraphSampler"):
        sizes["SOLVER.IMS_PER_BATCH"] = cfg.SOLVER.IMS_PER_BATCH
    if "MetaLearningHook" in node.HOOKS:
        key = "METABIN.IMS_PER_BATCH" if node.IMS_PER_BATCH else "SOLVER.IMS_PER_BATCH"
        sizes[key] = node.IMS_PER_BATCH or cfg.SOLVER.IMS_PER_BATCH
    return [Balance(size, instances, 1, key) for key, size in sizes.items()]


def single_images(subset: Subset) -> list[str]:
    """Paths of the images that are the only ones of their identity."""
    paths: dict[Any, list[str]] = defaultdict(list)
    for item in subset.items:
        paths[item[1]].append(item[0])
    return [found[0] for found in paths.values() if len(found) == 1]


def warnings(subsets: Sequence[Subset]) -> Iterator[str]:
    """A sentence for each kind of images that a run bears, but hardly learns or tests with."""
    by_name = {(subset.dataset, subset.name): subset for subset in subsets}
    for subset in subsets:
        if subset.name == TRAIN:
            single = single_images(subset)
            if single:
                yield (
                    f"{subset}: {len(single)} identities with one image, which is repeated in a "
                    f"batch, for example {shown(single[0])}"
                )
        gallery = by_name.get((subset.dataset, GALLERY))
        if subset.name == QUERY and gallery:
            unmatched = unmatched_queries(subset.items, gallery.items)
            # Without any match there is no evaluation, which is a problem.
            if 0 < len(unmatched) < len(subset.items):
                yield (
                    f"{subset}: {len(unmatched)} queries without a gallery image of the person "
                    "from another camera, which evaluation leaves out, for example "
                    f"{shown(unmatched[0])}"
                )
