"""Retrieval metrics of a query set against a gallery."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from metabin_plugin.ranking.distances import distance_chunks
from metabin_plugin.ranking.gallery import LabelledGallery
from metabin_plugin.ranking.metrics import Metrics, RankMetrics, match_ranks


def evaluate_rank(
    distances: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    max_rank: int = 50,
) -> Metrics:
    """CMC curve, average precision and inverse negative penalty, by the Market-1501 protocol.

    For each query the gallery entries of its identity from its own camera are discarded. Queries
    without a match among the rest are skipped. Equal distances are ordered by gallery index. One
    row of distances is looked at at a time, so that little memory is needed beyond them. Without
    equal distances the numbers are exactly those of fastreid's ``eval_market1501``.

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
    if rows.ndim != 2:
        raise ValueError(f"distances must have one row per query, got shape {rows.shape}")
    labels = (query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _evaluate([rows], rows.shape, *labels, max_rank)


def evaluate_features(
    query_features: Tensor,
    gallery_features: Tensor,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    metric: str = "cosine",
    max_rank: int = 50,
) -> Metrics:
    """Rank by the distances between features, without ever holding all of them.

    It is :func:`evaluate_rank` of the distances that ``distance_chunks`` gives, which says how
    they compare to those of a whole matrix.

    Args:
        query_features: features of the queries (Q, D).
        gallery_features: features of the gallery entries (G, D), of the same type.
        query_ids: identity of each query (Q,).
        gallery_ids: identity of each gallery entry (G,).
        query_cameras: camera of each query (Q,).
        gallery_cameras: camera of each gallery entry (G,).
        metric: ``"cosine"`` or ``"euclidean"``.
        max_rank: length of the CMC curve; a smaller gallery shortens it to G.

    Returns:
        As :func:`evaluate_rank`.

    Raises:
        ValueError: shapes do not fit together, `max_rank` is below 1, the metric is unknown, or a
            distance is NaN.
        DatasetError: no query has a match in the gallery.
    """
    chunks = distance_chunks(query_features, gallery_features, metric)
    shape = (len(query_features), len(gallery_features))
    labels = (query_ids, gallery_ids, query_cameras, gallery_cameras)
    return _evaluate((chunk.cpu().numpy() for chunk in chunks), shape, *labels, max_rank)


def _evaluate(
    chunks: Iterable[np.ndarray],
    shape: tuple[int, ...],
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    max_rank: int,
) -> Metrics:
    queries = np.asarray(query_ids), np.asarray(query_cameras)
    ids, cameras = np.asarray(gallery_ids), np.asarray(gallery_cameras)
    _check_shapes(shape, *queries, ids, cameras, max_rank)
    gallery, metrics = LabelledGallery(ids, cameras), RankMetrics(len(ids))
    rows = (row for chunk in chunks for row in chunk)
    entries = gallery.entries_of(*queries)
    for query, (row, (matches, discarded)) in enumerate(zip(rows, entries, strict=True)):
        _check_row(row, query)
        if len(matches) > 0:
            ranks = match_ranks(row, matches, discarded)
            metrics.add(ranks, len(gallery) - len(discarded))
    return metrics.result(min(max_rank, len(gallery)))


def _check_row(row: np.ndarray, query: int) -> None:
    if np.isnan(row).any():
        raise ValueError(
            f"the distances of query {query} contain NaN: its features, or some of the gallery's, "
            "are not finite"
        )


def _check_shapes(
    shape: tuple[int, ...],
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
    max_rank: int,
) -> None:
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
