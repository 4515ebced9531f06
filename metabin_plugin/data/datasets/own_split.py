"""Datasets in their own partition: training images, queries and gallery of the authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from metabin_plugin.data.datasets.base import NamedDataset, TestItem, TrainItem


class OwnSplit(NamedTuple):
    """A dataset's own partition.

    Attributes:
        train: training items; their persons are in neither of the others.
        query: query items.
        gallery: gallery items, distractors included.
    """

    train: list[TrainItem]
    query: list[TestItem]
    gallery: list[TestItem]


class OwnSplitDataset(NamedDataset):
    """A dataset in its own partition, as a source (its training images only) or as a target.

    Args:
        root: the folder that holds all datasets.
        **kwargs: passed on to fastreid's ``ImageDataset``.

    Raises:
        DatasetError: if a folder or list is missing or empty, or a name cannot be parsed.
    """

    def __init__(self, root: str = "datasets", **kwargs: Any) -> None:
        super().__init__(*self.read(Path(root).expanduser()), **kwargs)

    def read(self, root: Path) -> OwnSplit:
        """Return the partition under the datasets root ``root``."""
        raise NotImplementedError
