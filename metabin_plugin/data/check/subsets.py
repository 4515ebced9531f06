"""The image lists that are to be checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from yacs.config import CfgNode

from metabin_plugin.data.datasets.base import TargetDataset
from metabin_plugin.data.domains import DomainLabels, label_domains
from metabin_plugin.data.lookup import build_dataset, read_subset
from metabin_plugin.data.manifest_rows import is_manifest
from metabin_plugin.data.matches import Items, splits_of
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
    """

    subsets: list[Subset] = field(default_factory=list)
    sources: list[tuple[str, Any]] = field(default_factory=list)
    problems: list[MetaBINError] = field(default_factory=list)
    splits: dict[str, Sequence[tuple[Items, Items]]] = field(default_factory=dict)

    def paths(self) -> list[str]:
        """The images of all subsets and splits; some are there several times."""
        lists = [subset.items for subset in self.subsets]
        lists += [side for splits in self.splits.values() for split in splits for side in split]
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
                    f'{key} lists "{name}", which has no {" and no ".join(empty)} images; name '
                    "another dataset or add some."
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
