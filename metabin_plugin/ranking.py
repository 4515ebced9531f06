"""Retrieval metrics of a query set against a gallery, exact and in little memory.

From distances, or from features a few queries at a time: the CMC curve, average precision and the
inverse negative penalty. A query's matches are found without ordering the gallery. And a change of
the features before they are compared, by the cameras that they are from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from metabin_plugin.errors import DatasetError

Metrics = tuple[np.ndarray, list[float], list[float]]


# 256 MiB in float32: one chunk for Market-1501, 15 for MSMT17.
CHUNK_ELEMENTS = 2**26
# Up to so many of a number's own rounding, the deviation of a camera's numbers means nothing: they
# are equal, and their mean was rounded.
ROUNDINGS = 100
_Chunk = Callable[[slice], Tensor]


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

    Example:
        One query of person 7; its nearest image is of person 8, the next one its match.

        >>> cmc, precision, penalty = evaluate_rank([[0.2, 0.1]], [7], [7, 8], [0], [1, 1])
        >>> cmc.tolist(), precision
        ([0.0, 1.0], [0.5])
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


def _check_row(row: np.ndarray, query: int) -> None:
    if np.isnan(row).any():
        raise ValueError(
            f"the distances of query {query} contain NaN: its features, or some of the gallery's, "
            "are not finite"
        )


class LabelledGallery:
    """Gallery entries grouped by identity.

    Args:
        identities: identity of each gallery entry (G,).
        cameras: camera of each gallery entry (G,).
    """

    def __init__(self, identities: np.ndarray, cameras: np.ndarray) -> None:
        # A stable sort keeps the entries of an identity in ascending order.
        self._order = np.argsort(identities, kind="stable")
        self._identities = identities[self._order]
        self._cameras = cameras

    def __len__(self) -> int:
        return len(self._cameras)

    def entries_of(
        self, identities: np.ndarray, cameras: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Find the entries that show the same persons as queries.

        Args:
            identities: identity of each query (Q,).
            cameras: camera of each query (Q,).

        Yields:
            For each query the ascending gallery indices of its matches (its identity, another
            camera) and of the entries to discard (its identity, its own camera).
        """
        begins = np.searchsorted(self._identities, identities, side="left")
        ends = np.searchsorted(self._identities, identities, side="right")
        for begin, end, camera in zip(begins, ends, cameras, strict=True):
            entries = self._order[begin:end]
            own = self._cameras[entries] == camera
            yield entries[~own], entries[own]


def match_ranks(distances: np.ndarray, matches: np.ndarray, discarded: np.ndarray) -> np.ndarray:
    """Ranks at which a query's matches come up when its gallery is ordered by distance.

    The rank of a match is one more than the number of gallery entries before it: those at a
    smaller distance and, at an equal distance, those with a smaller gallery index (the order of a
    stable sort). The entries are counted; those beyond the farthest match are not even sorted.

    Args:
        distances: distance of every gallery entry to the query (G,), without NaN.
        matches: gallery indices of the matches, ascending (M,), M >= 1.
        discarded: gallery indices of the entries that take no rank.

    Returns:
        Ranks of the matches, ascending, starting at 1 (M,).
    """
    matches = matches[np.argsort(distances[matches], kind="stable")]
    thresholds = distances[matches]
    own = np.concatenate((matches, discarded))
    nearer, not_farther = _counts(distances[distances <= thresholds[-1]], thresholds)
    own_nearer, own_not_farther = _counts(distances[own], thresholds)
    rivals_nearer = nearer - own_nearer
    tied = not_farther - own_not_farther > rivals_nearer
    ranks = np.arange(1, len(matches) + 1) + rivals_nearer
    for place in np.flatnonzero(tied):
        ties = np.flatnonzero(distances == thresholds[place])
        earlier = ties[ties < matches[place]]
        ranks[place] += np.count_nonzero(~np.isin(earlier, own))
    return ranks


def _counts(values: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many values are below each threshold, and how many are not above it."""
    in_order = np.sort(values)
    below = np.searchsorted(in_order, thresholds, side="left")
    return below, np.searchsorted(in_order, thresholds, side="right")


class RankMetrics:
    """Collects the ranks of one query after the other.

    Args:
        gallery_size: number of gallery entries G.
    """

    def __init__(self, gallery_size: int) -> None:
        self._precisions = np.zeros(gallery_size)
        self._first_ranks: list[int] = []
        self._average_precision: list[float] = []
        self._inverse_penalty: list[float] = []

    def add(self, ranks: np.ndarray, kept: int) -> None:
        """Take up a query.

        Args:
            ranks: ranks of its matches, ascending, starting at 1 (M,), M >= 1.
            kept: number of gallery entries that take a rank.
        """
        count, places = len(ranks), ranks - 1
        # Summed over the whole ranking, zeros included, as fastreid does: a sum over the matches
        # alone would be rounded differently.
        self._precisions[places] = np.arange(1, count + 1) / ranks
        self._average_precision.append(float(self._precisions[:kept].sum() / count))
        self._precisions[places] = 0
        self._inverse_penalty.append(count / float(ranks[-1]))
        self._first_ranks.append(int(ranks[0]))

    def result(self, length: int) -> Metrics:
        """Return the CMC curve (length,), and AP and INP of the queries.

        Args:
            length: length of the curve.

        Raises:
            DatasetError: no query was taken up.
        """
        if not self._first_ranks:
            raise DatasetError(
                "No query has a gallery image of its identity from another camera; check the "
                "identity and camera labels of the query and gallery lists"
            )
        hits = np.bincount(self._first_ranks, minlength=length + 1)[1 : length + 1]
        curve = np.cumsum(hits).astype(np.float32) / np.float32(len(self._first_ranks))
        return curve, self._average_precision, self._inverse_penalty


@torch.no_grad()
def distance_chunks(queries: Tensor, gallery: Tensor, metric: str) -> Iterator[Tensor]:
    """Distances of queries to gallery entries in chunks of whole rows.

    They are computed by the operations that fastreid's ``build_dist`` uses on the whole matrix. If
    it has at most ``CHUNK_ELEMENTS`` elements, it is one chunk and the numbers are bit for bit
    those. The rows of a smaller chunk may be summed in another order by the matrix product, and
    differ by float rounding.

    Args:
        queries: features of the queries (Q, D).
        gallery: features of the gallery entries (G, D), of the same type.
        metric: ``"cosine"`` (one minus the cosine) or ``"euclidean"`` (squared).

    Yields:
        Distances of the next queries (B, G); in all, of every query in order.

    Raises:
        ValueError: the metric is neither of the two.
    """
    if metric not in _METRICS:
        raise ValueError(f'metric must be "cosine" or "euclidean", got {metric!r}')
    chunk = _METRICS[metric](queries, gallery)
    rows = max(1, CHUNK_ELEMENTS // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        yield chunk(slice(start, start + rows))


def _cosine(queries: Tensor, gallery: Tensor) -> _Chunk:
    queries, others = F.normalize(queries, dim=1), F.normalize(gallery, dim=1).t()
    # In place: a second matrix of a chunk's size would double the memory.
    return lambda rows: torch.mm(queries[rows], others).neg_().add_(1)


def _euclidean(queries: Tensor, gallery: Tensor) -> _Chunk:
    squares, other_squares = queries.square().sum(1)[:, None], gallery.square().sum(1)
    others = gallery.t()
    return lambda rows: (squares[rows] + other_squares).addmm_(queries[rows], others, alpha=-2)


_METRICS: dict[str, Callable[[Tensor, Tensor], _Chunk]] = {
    "cosine": _cosine,
    "euclidean": _euclidean,
}


@torch.no_grad()
def standardize_by_camera(features: Tensor, cameras: ArrayLike) -> Tensor:
    """Take from features what the images of a camera have in common: ``(f - mean) / deviation``.

    For each camera and each number of the feature, mean and biased deviation are those over all
    images of the camera. After "Exploring the Camera Bias of Person Re-identification", ICLR 2025.
    The images' identities have no part in it, but the images themselves have: of an unseen target
    it needs a collection, not one image. Here a camera with one image, which would leave nothing of
    it, takes mean and deviation of all images, and a number that is the same in all images of a
    camera becomes 0.

    Beside the result, at most ``CHUNK_ELEMENTS`` numbers are held, or a camera's share of one.

    Args:
        features: (N, D).
        cameras: camera of each image (N,); the same everywhere standardizes over all images.

    Returns:
        Features (N, D); those given stay as they are.

    Raises:
        ValueError: shapes do not fit together.

    Example:
        >>> standardize_by_camera(torch.tensor([[1.0], [3.0], [10.0], [30.0]]), [0, 0, 1, 1])
        tensor([[-1.],
                [ 1.],
                [-1.],
                [ 1.]])
    """
    labels = np.asarray(cameras)
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must have one row per camera label, got shapes {tuple(features.shape)} and "
            f"{labels.shape}"
        )
    result = torch.empty_like(features)
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    of_cameras = np.split(np.argsort(number, kind="stable"), counts.cumsum()[:-1])
    alone = np.flatnonzero(counts[number] == 1)
    groups = [(own, own) for own in of_cameras if len(own) > 1]
    # Together, for each of them looks at all images.
    groups += [(alone, np.arange(len(labels)))] if len(alone) else []
    for own, rows in (map(torch.from_numpy, group) for group in groups):
        width = max(1, CHUNK_ELEMENTS // len(rows))
        for start in range(0, features.shape[1], width):
            part = slice(start, start + width)
            mean, std = _moments(features[rows, part])
            result[own, part] = features[own, part].sub_(mean).div_(std)
    return result


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column of its own copy of some rows, which is used up."""
    root = math.sqrt(len(rows))
    rounding = (
        ROUNDINGS * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows, dim=0) / root
    )
    mean = rows.mean(0)
    std = torch.linalg.vector_norm(rows.sub_(mean), dim=0) / root
    is_constant = std <= rounding
    return mean, std.masked_fill(is_constant, torch.inf)
