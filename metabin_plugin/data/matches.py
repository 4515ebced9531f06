"""Which queries of a target can be scored: a gallery image of another camera shows the person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from metabin_plugin.data.lookup import build_nonempty_dataset
from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown

Items = Sequence[Sequence[Any]]


def unmatched_queries(query: Items, gallery: Items) -> list[str]:
    """Paths of the queries whose identity no other camera's gallery image shows.

    Args:
        query: one ``(path, identity, camera)`` for each query.
        gallery: the same for each gallery image.
    """
    cameras: dict[Any, set[Any]] = defaultdict(set)
    for item in gallery:
        cameras[item[1]].add(item[2])
    return [path for path, identity, camera, *_ in query if not cameras[identity] - {camera}]


def splits_of(dataset: Any) -> Sequence[tuple[Items, Items]]:
    """Query and gallery of each split of a target; one pair where it has no further splits."""
    return getattr(dataset, "splits", None) or [(dataset.query, dataset.gallery)]


def require_matches(name: str, splits: Sequence[tuple[Items, Items]]) -> None:
    """Check that a target can be evaluated.

    Args:
        name: the target, as the config names it.
        splits: its splits; each must have a query that can be scored.

    Raises:
        DatasetError: a split has none.
    """
    for query, gallery in splits:
        if len(unmatched_queries(query, gallery)) == len(query):
            cameras = {item[2] for side in (query, gallery) for item in side}
            raise DatasetError(
                f'Target "{shown(name)}" cannot be evaluated: none of its {len(query)} queries '
                "has a gallery image of the same person from another camera (cameras in all: "
                f"{len(cameras)}); correct the persons and cameras of its images, or name another "
                "dataset in DATASETS.TESTS."
            )


def check_targets(names: Iterable[str]) -> None:
    """Check before a training that each target can be evaluated after it. No image is read.

    Args:
        names: ``DATASETS.TESTS``.

    Raises:
        DatasetError: a target is unknown, missing or empty, or none of its queries can be scored.
    """
    for name in names:
        dataset = build_nonempty_dataset(name, ["query", "gallery"], key="DATASETS.TESTS")
        require_matches(name, splits_of(dataset))
