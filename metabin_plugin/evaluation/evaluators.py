"""Evaluators on fastreid's interface: exact ranking in little memory, several splits at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.evaluation import ReidEvaluator
from fastreid.utils import comm
from torch import Tensor

from metabin_plugin.evaluation.images import Images, Members
from metabin_plugin.evaluation.scoring import score
from metabin_plugin.evaluation.split_results import over_splits

Sides = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class RankingEvaluator(ReidEvaluator):
    """fastreid's ``ReidEvaluator`` without the distances of all pairs in memory.

    Args:
        cfg: the config.
        num_query: number of queries; the images after them are the gallery.
        output_dir: as fastreid's, unused.
        sides: for a network whose queries and gallery are represented differently: makes the
            features to compare from its outputs for the queries (Q, D) and the gallery (G, D).
    """

    def __init__(
        self,
        cfg: CfgNode,
        num_query: int,
        output_dir: str | None = None,
        sides: Sides | None = None,
    ) -> None:
        super().__init__(cfg, num_query, output_dir)
        self._sides = sides

    def evaluate(self) -> dict[str, float]:
        """Gather the features of all processes and score them in the first.

        Returns:
            The metrics, see ``score``; an empty dictionary in the other processes.

        Raises:
            DatasetError: no query has a match in the gallery.
        """
        gathered = comm.gather(self._predictions, dst=0)
        self.reset()
        if not comm.is_main_process():
            return {}
        return self.score(_joined(list(itertools.chain.from_iterable(gathered))))

    def score(self, images: Images) -> dict[str, float]:
        """Return the metrics of all images, which are in the order of the loader's dataset."""
        query = images.part(slice(self._num_query))
        gallery = images.part(slice(self._num_query, None))
        return self._score(query, gallery)

    def _score(self, query: Images, gallery: Images) -> dict[str, float]:
        if self._sides is not None:
            probes, entries = self._sides(query.features, gallery.features)
            query, gallery = query._replace(features=probes), gallery._replace(features=entries)
        return score(self.cfg, query, gallery)


class MultiSplitEvaluator(RankingEvaluator):
    """Scores several splits of the same images, whose features are extracted once.

    Args:
        cfg: the config.
        splits: query and gallery of each split, as positions in the loader's dataset.
        output_dir: as fastreid's, unused.
        sides: as ``RankingEvaluator``'s.
    """

    def __init__(
        self,
        cfg: CfgNode,
        splits: Sequence[tuple[Members, Members]],
        output_dir: str | None = None,
        sides: Sides | None = None,
    ) -> None:
        super().__init__(cfg, 0, output_dir, sides)
        self._splits = splits

    def score(self, images: Images) -> dict[str, float]:
        """Return mean and standard deviation over the splits, as ``SplitResults``."""
        features = images.features
        return over_splits(
            [
                self._score(query.images(features), gallery.images(features))
                for query, gallery in self._splits
            ]
        )


def _joined(batches: list[dict[str, Any]]) -> Images:
    names = ("feats", "pids", "camids")
    # Taken out, or the features would be in memory twice during the ranking.
    features, identities, cameras = (torch.cat([b.pop(name) for b in batches]) for name in names)
    return Images(features, identities.numpy(), cameras.numpy())
