"""Losses of the base step (Eq. 2-4) and of the meta step (Eq. 6-8 and 10)."""

from __future__ import annotations

from metabin_plugin.losses.cross_entropy import cross_entropy_loss
from metabin_plugin.losses.distance import pairwise_distance
from metabin_plugin.losses.scatter import scatter_loss
from metabin_plugin.losses.shuffle import shuffle_loss
from metabin_plugin.losses.triplet import triplet_loss

__all__ = [
    "cross_entropy_loss",
    "pairwise_distance",
    "scatter_loss",
    "shuffle_loss",
    "triplet_loss",
]
