"""The images of a target, in the order in which fastreid's evaluator takes them."""

from __future__ import annotations

from typing import Any

from metabin_plugin.data.matches import splits_of
from metabin_plugin.data.readable import ReadableDataset


class TargetImages(ReadableDataset):
    """The query images of a target, then its gallery images.

    Args:
        dataset: a fastreid ``ImageDataset``.
        transform: what turns a PIL image into a tensor.

    Attributes:
        num_query: number of query images.
        splits: pairs of query and gallery items, the dataset's own first; one pair where the
            dataset has no further splits.
    """

    def __init__(self, dataset: Any, transform: Any) -> None:
        super().__init__(dataset.query + dataset.gallery, transform, relabel=False)
        self.num_query = len(dataset.query)
        self.splits = splits_of(dataset)
