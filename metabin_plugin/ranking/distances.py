"""Distances between features, a few queries at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# 256 MiB in float32: one chunk for Market-1501, 15 for MSMT17.
CHUNK_ELEMENTS = 2**26

_Chunk = Callable[[slice], Tensor]


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
        raise ValueError(f'metric must be "cosine" or "euclidean", got "{metric}"')
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
