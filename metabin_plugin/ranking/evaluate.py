"""Retrieval metrics of a query set against a gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from metabin_plugin.errors import DatasetError
from metabin_plugin.ranking.match_ranks import match_ranks


def evaluate_rank(
    distances: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    max_rank: int = 50,
) -> tuple[np.ndarray, list[float], list[float]]:
    """CMC curve, average precision and inverse negative penalty, by the Market-1501 protocol.

    For each query the gallery entries of its identity from its own camera are discarded. Queries
    without a match among the rest are skipped. Equal distances are ordered by gallery index. One
    row of distances is looked at at a time, so that little memory is needed beyond them.

    Args:
        distances: distances (Q, G) of queries to gallery entries, without NaN.
        query_ids: identity of each query (Q,).
        gallery_ids: identity of each gallery entry (G,).
        query_cameras: camera of each query (Q,).
        gallery_cameras: camera of each gallery entry (G,).
        max_rank: length of the CMC curve; a smaller gallery shortens it to G.

    Returns:
        The CMC curve, float32 (min(max_rank, G),): at index r - 1 the share of evaluated queries,
        in [0, 1], with a match among the first r entries; and per evaluated query, in query order,
        its average precision and its inverse negative penalty (matches divided by the rank of the
        last one), both in (0, 1].

    Raises:
        ValueError: shapes do not fit together, `max_rank` is below 1, or a distance is NaN.
        DatasetError: no query has a match in the gallery.
    """
    rows = np.asarray(distances)
    ids, cameras = np.asarray(gallery_ids), np.asarray(gallery_cameras)
    queries = np.asarray(query_ids), np.asarray(query_cameras)
    _check_shapes(rows.shape, *queries, ids, cameras, max_rank)
    ranks = []
    for index, (identity, camera) in enumerate(zip(*queries, strict=True)):
        row = _row(rows, index)
        same = ids == identity
        matches = np.flatnonzero(same & (cameras != camera))
        if len(matches) > 0:
            ranks.append(match_ranks(row, matches, ~same))
    if not ranks:
        raise DatasetError(
            "No query has a gallery image of its identity from another camera: check the "
            "identity and camera labels of the query and gallery lists"
        )
    length = min(max_rank, len(ids))
    return _cmc(ranks, length), *_precisions(ranks)


def _row(distances: np.ndarray, index: int) -> np.ndarray:
    row = np.asarray(distances[index])
    if np.isnan(row).any():
        raise ValueError(
            f"the distances of query {index} contain NaN: its features, or some of the gallery's, "
            "are not finite"
        )
    return row


def _cmc(ranks: Sequence[np.ndarray], length: int) -> np.ndarray:
    first = np.array([r[0] for r in ranks])
    hits = np.bincount(first, minlength=length + 1)[1 : length + 1]
    return np.cumsum(hits).astype(np.float32) / np.float32(len(ranks))


def _precisions(ranks: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    average = [float(np.mean(np.arange(1, len(r) + 1) / r)) for r in ranks]
    inverse_penalty = [len(r) / float(r[-1]) for r in ranks]
    return average, inverse_penalty


def _check_shapes(
    shape: tuple[int, ...],
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
    max_rank: int,
) -> None:
    if len(shape) != 2:
        raise ValueError(f"distances must have one row per query, got shape {shape}")
    sides = {
        "query_ids": (query_ids, shape[0]),
        "query_cameras": (query_cameras, shape[0]),
        "gallery_ids": (gallery_ids, shape[1]),
        "gallery_cameras": (gallery_cameras, shape[1]),
    }
    for name, (labels, count) in sides.items():
        if labels.shape != (count,):
            raise ValueError(
                f"{name} must have shape ({count},) for distances of shape {shape}, "
                f"got {labels.shape}"
            )
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, got {max_rank}")
