"""Evaluators on fastreid's interface: exact ranking in little memory, several splits at once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fastreid.config import CfgNode
from fastreid.evaluation import ReidEvaluator
from fastreid.utils import comm
from torch import Tensor

from metabin_plugin.data import ReadableDataset, build_reid_test_loader
from metabin_plugin.evaluation.images import Images, Members, without_repetition
from metabin_plugin.evaluation.results import SplitResults, over_splits
from metabin_plugin.evaluation.scoring import LEFT_OUT, QUERIES, score
from metabin_plugin.ranking.gallery import LabelledGallery

logger = logging.getLogger(__name__)

# The place of an image in its batch, and the batch's size, move its features by a few 1e-7.
_ROUNDING = 1e-5

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
        self._copies = self._queries = 0

    def reset(self) -> None:
        """Forget the features, and what was counted in them."""
        super().reset()
        self._copies = self._queries = 0

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
        results = self.score(_joined(list(itertools.chain.from_iterable(gathered))))
        self._warn(results)
        return results

    def score(self, images: Images) -> dict[str, float]:
        """Return the metrics of all images, which are in the order of the loader's dataset."""
        query = images.part(slice(self._num_query))
        gallery = images.part(slice(self._num_query, None))
        return self._score(query, gallery)

    def _warn(self, results: dict[str, float]) -> None:
        if results[LEFT_OUT] > 0:
            logger.warning(
                "%g of %g queries%s are left out: no gallery image shows their person under "
                "another camera; the metrics are those of the other queries",
                results[LEFT_OUT],
                results[QUERIES] + results[LEFT_OUT],
                " (means over the splits)" if isinstance(results, SplitResults) else "",
            )
        if self._copies:
            logger.warning(
                "%d of %d queries have the same features as a gallery image of their person under "
                "another camera: the picture is on both sides, so the metrics say little, or the "
                "network gives different pictures the same features; tools/check_datasets.py "
                "names pictures that are on both sides",
                self._copies,
                self._queries,
            )

    def _score(self, query: Images, gallery: Images) -> dict[str, float]:
        self._queries += len(query.features)
        self._copies += _count_copies(query, gallery)
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


def _count_copies(query: Images, gallery: Images) -> int:
    """Number of queries with the features of a gallery image of their person, another camera's."""
    entries = LabelledGallery(gallery.identities, gallery.cameras)
    found = entries.entries_of(query.identities, query.cameras)
    return sum(
        bool(len(matches)) and _has_equal(features, gallery.features[matches])
        for features, (matches, _) in zip(query.features, found, strict=True)
    )


def _has_equal(features: Tensor, others: Tensor) -> bool:
    differences = (others - features).abs().amax(1)
    return bool((differences <= _ROUNDING * features.abs().max()).any())


def _joined(batches: list[dict[str, Any]]) -> Images:
    names = ("feats", "pids", "camids")
    # Taken out, or the features would be in memory twice during the ranking.
    features, identities, cameras = (torch.cat([b.pop(name) for b in batches]) for name in names)
    return Images(features, identities.numpy(), cameras.numpy())


def build_evaluator(
    cfg: CfgNode,
    loader: Any,
    num_query: int,
    output_dir: str | None = None,
    sides: Sides | None = None,
) -> tuple[Any, RankingEvaluator]:
    """Build the evaluator for a target's images, and the loader to use with it.

    Args:
        cfg: the config.
        loader: a test loader, query images first.
        num_query: number of query images.
        output_dir: passed on to the evaluator.
        sides: passed on to the evaluator.

    Returns:
        The loader as it is; or, if its dataset has several ``splits``, one that reads each image of
        all splits once, with the same transforms. And the evaluator.
    """
    splits = getattr(loader.dataset, "splits", ())
    if len(splits) < 2:
        return loader, RankingEvaluator(cfg, num_query, output_dir, sides)
    items, members = without_repetition(splits)
    logger.info("%d splits of %d images", len(splits), len(items))
    test_set = ReadableDataset(items, loader.dataset.transform, relabel=False)
    loader, _ = build_reid_test_loader(cfg, test_set=test_set)
    return loader, MultiSplitEvaluator(cfg, members, output_dir, sides)
