"""The gallery's labels, arranged so that a query finds its own entries without a search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


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
