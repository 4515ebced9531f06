"""Evaluation on fastreid's interface: exact, in little memory, of several splits; its results.

Metrics of ranking, and operating points (``operating_points``).
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.evaluation import ReidEvaluator
from fastreid.evaluation.query_expansion import aqe
from fastreid.evaluation.roc import evaluate_roc
from fastreid.utils import comm
from fastreid.utils.compute_dist import build_dist
from torch import Tensor, nn

from metabin_plugin.data import ReadableDataset, build_reid_test_loader
from metabin_plugin.data.datasets.base import TestItem
from metabin_plugin.errors import NonFiniteError
from metabin_plugin.files import replace_file
from metabin_plugin.operating_points import (
    TargetPoints,
    operating_points,
)
from metabin_plugin.ranking import (
    LabelledGallery,
    evaluate_features,
    evaluate_rank,
    standardize_by_camera,
)
from metabin_plugin.report.operating_points import write_points
from metabin_plugin.text import as_cell

logger = logging.getLogger(__name__)

QUERIES, LEFT_OUT = "queries", "left_out"
_RANKS = (1, 5, 10)
_FALSE_POSITIVE_RATES = (1e-4, 1e-3, 1e-2)
# The place of an image in its batch, and the batch's size, move its features by a few 1e-7.
_ROUNDING = 1e-5
JSON_NAME = "results.json"
CSV_NAME = "results.csv"
STD_SUFFIX = "_std"
# Of metrics of features that are standardized by camera.
BY_CAMERA_SUFFIX = "_by_camera"
Sides = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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
    has_cameras = getattr(loader.dataset, "has_cameras", True)
    if len(splits) < 2:
        return loader, RankingEvaluator(cfg, num_query, output_dir, sides, has_cameras)
    strangers = getattr(loader.dataset, "strangers", ())
    if strangers and _wants_points(cfg):
        splits = [(*split, others) for split, others in zip(splits, strangers, strict=True)]
    items, members = without_repetition(splits)
    logger.info("%d splits of %d images", len(splits), len(items))
    test_set = ReadableDataset(items, loader.dataset.transform, relabel=False)
    loader, _ = build_reid_test_loader(cfg, test_set=test_set)
    return loader, MultiSplitEvaluator(cfg, members, output_dir, sides, has_cameras)


def evaluated_features(cfg: CfgNode, network: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Features (N, D) of a batch as evaluation makes them, float32, on the CPU.

    Args:
        cfg: the config; with ``TEST.FLIP`` they are the mean of an image's and its mirror image's.
        network: in evaluation mode.
        batch: what a test loader gives.
    """
    features = network(batch)
    if cfg.TEST.FLIP.ENABLED:
        mirrored = {**batch, "images": batch["images"].flip(dims=[3])}
        features = (features + network(mirrored)) / 2
    return features.float().cpu()


def _wants_points(cfg: CfgNode) -> bool:
    # A config of fastreid's own may come from elsewhere.
    return "METABIN" in cfg and cfg.METABIN.OPERATING_POINTS


class RankingEvaluator(ReidEvaluator):
    """fastreid's ``ReidEvaluator`` without the distances of all pairs in memory.

    With ``METABIN.TEST.CAMERA_STANDARDIZATION`` there are all metrics a second time, with
    ``BY_CAMERA_SUFFIX`` behind their names: those of ``standardize_by_camera`` of the features of
    query and gallery together. They look at images of the target without their identities, which
    the others do not.

    Args:
        cfg: the config.
        num_query: number of queries; the images after them are the gallery.
        output_dir: as fastreid's, unused.
        sides: for a network whose queries and gallery are represented differently: makes the
            features to compare from its outputs for the queries (Q, D) and the gallery (G, D).
        has_cameras: whether the camera labels are those of cameras. Where they only keep queries
            and gallery apart, all images are standardized as those of one camera.
    """

    def __init__(
        self,
        cfg: CfgNode,
        num_query: int,
        output_dir: str | None = None,
        sides: Sides | None = None,
        has_cameras: bool = True,
    ) -> None:
        super().__init__(cfg, num_query, output_dir)
        self._sides = sides
        self._has_cameras = has_cameras
        # A config of fastreid's own may come from elsewhere.
        self._standardizes = "METABIN" in cfg and cfg.METABIN.TEST.CAMERA_STANDARDIZATION
        self._copies = self._queries = 0
        self._points: list[TargetPoints] = []

    def reset(self) -> None:
        """Forget the features, and what was counted in them."""
        super().reset()
        self._copies = self._queries = 0
        self._points = []

    def evaluate(self) -> dict[str, float]:
        """Gather the features of all processes and score them in the first.

        Returns:
            The metrics, see ``score``, as ``TargetResults``; an empty dictionary in the other
            processes.

        Raises:
            DatasetError: no query has a match in the gallery.
            NonFiniteError: an image's features are not finite.
        """
        gathered = comm.gather(self._predictions, dst=0)
        self.reset()
        if not comm.is_main_process():
            return {}
        images = _joined(list(itertools.chain.from_iterable(gathered)))
        _require_finite(images.features)
        results = self.score(images)
        results.points = self._points
        self._warn(results)
        return results

    def score(self, images: Images) -> TargetResults:
        """Return the metrics of all images, which are in the order of the loader's dataset."""
        query = images.part(slice(self._num_query))
        gallery = images.part(slice(self._num_query, None))
        return TargetResults(self._score(query, gallery))

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
                "network gives different pictures the same features; `metabin check` "
                "names pictures that are on both sides",
                self._copies,
                self._queries,
            )

    def _score(self, query: Images, gallery: Images, *strangers: Images) -> dict[str, float]:
        self._queries += len(query.features)
        self._copies += _count_copies(query, gallery)
        compared = self._representations(query, gallery, *strangers)
        results = score(self.cfg, *compared[:2])
        if _wants_points(self.cfg):
            probes, entries, *others = compared
            points = operating_points(probes, entries, self.cfg.TEST.METRIC, *others)
            self._points.append(points)
        if self._standardizes:
            again = score(self.cfg, *self._representations(*self._standardized(query, gallery)))
            counts = (QUERIES, LEFT_OUT)
            results.update((n + BY_CAMERA_SUFFIX, v) for n, v in again.items() if n not in counts)
        return results

    def _representations(self, query: Images, gallery: Images, *strangers: Images) -> list[Images]:
        """What is compared: the features, or what ``sides`` makes of them."""
        if self._sides is None:
            return [query, gallery, *strangers]
        probes, entries = self._sides(query.features, gallery.features)
        others = [
            side._replace(features=self._sides(side.features, gallery.features)[0])
            for side in strangers
        ]
        return [query._replace(features=probes), gallery._replace(features=entries), *others]

    def _standardized(self, query: Images, gallery: Images) -> tuple[Images, Images]:
        cameras = np.concatenate((query.cameras, gallery.cameras))
        features = standardize_by_camera(
            torch.cat((query.features, gallery.features)),
            cameras if self._has_cameras else np.zeros_like(cameras),
        )
        count = len(query.features)
        return query._replace(features=features[:count]), gallery._replace(
            features=features[count:]
        )


class MultiSplitEvaluator(RankingEvaluator):
    """Scores several splits of the same images, whose features are extracted once.

    Args:
        cfg: the config.
        splits: query and gallery of each split, as positions in the loader's dataset; a third
            part are further queries of people who are not in the gallery, see ``strangers`` of
            ``operating_points``.
        output_dir: as fastreid's, unused.
        sides: as ``RankingEvaluator``'s, as is ``has_cameras``.
        has_cameras: see there.
    """

    def __init__(
        self,
        cfg: CfgNode,
        splits: Sequence[Sequence[Members]],
        output_dir: str | None = None,
        sides: Sides | None = None,
        has_cameras: bool = True,
    ) -> None:
        super().__init__(cfg, 0, output_dir, sides, has_cameras)
        self._splits = splits

    def score(self, images: Images) -> TargetResults:
        """Return mean and standard deviation over the splits, as ``SplitResults``."""
        features = images.features
        return over_splits(
            [self._score(*(side.images(features) for side in split)) for split in self._splits]
        )


def _joined(batches: list[dict[str, Any]]) -> Images:
    names = ("feats", "pids", "camids")
    # Taken out, or the features would be in memory twice during the ranking.
    features, identities, cameras = (torch.cat([b.pop(name) for b in batches]) for name in names)
    return Images(features, identities.numpy(), cameras.numpy())


def _require_finite(features: Tensor) -> None:
    # Infinite or NaN where one of the row is, and nothing of the size of all.
    largest = torch.linalg.vector_norm(features, math.inf, dim=1)
    count = int((~largest.isfinite()).sum())
    if count:
        raise NonFiniteError(
            f"The network gives {count} of {len(features)} images features that are not finite; "
            "evaluate other MODEL.WEIGHTS, or train with a lower SOLVER.BASE_LR"
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


class Members(NamedTuple):
    """The queries or the gallery of a split, as positions in a list of images.

    Attributes:
        positions: where each image is in the list (N,).
        identities: identity of each image in this split (N,).
        cameras: camera of each image in this split (N,).
    """

    positions: np.ndarray
    identities: np.ndarray
    cameras: np.ndarray

    def images(self, features: Tensor) -> Images:
        """Return the members' images, given the features of the whole list."""
        return Images(features[self.positions], self.identities, self.cameras)


def without_repetition(
    splits: Sequence[Sequence[Sequence[TestItem]]],
) -> tuple[list[TestItem], list[list[Members]]]:
    """List the images of all splits once, and the splits as positions in that list.

    Args:
        splits: query items, gallery items and perhaps further ones of each split,
            ``(path, identity, camera)``. The same image may have other labels in another split.

    Returns:
        One item for each path, and the members of each part of each split.
    """
    items: dict[str, Any] = {}
    for item in (item for split in splits for side in split for item in side):
        items.setdefault(item[0], item)
    positions = {path: position for position, path in enumerate(items)}

    def members(side: Sequence[TestItem]) -> Members:
        places = [(positions[path], person, camera) for path, person, camera, *_ in side]
        return Members(*np.array(places, np.int64).reshape(-1, 3).T)

    return list(items.values()), [[members(side) for side in split] for split in splits]


class Images(NamedTuple):
    """Features and labels of N images.

    Attributes:
        features: features (N, D), float32, on the CPU.
        identities: identity of each image (N,).
        cameras: camera of each image (N,).
    """

    features: Tensor
    identities: np.ndarray
    cameras: np.ndarray

    def part(self, which: slice | np.ndarray) -> Images:
        """Return some of the images; an array says of each whether it is one of them."""
        return Images(self.features[which], self.identities[which], self.cameras[which])


def score(cfg: CfgNode, query: Images, gallery: Images) -> OrderedDict[str, float]:
    """Compute the metrics that fastreid's ``ReidEvaluator`` computes, under its names.

    The distances are held in memory as a whole only for re-ranking and the ROC curve.

    Args:
        cfg: the config; ``TEST.METRIC``, ``AQE``, ``RERANK`` and ``ROC`` count.
        query: the queries.
        gallery: the gallery.

    Returns:
        ``Rank-1``, ``Rank-5``, ``Rank-10``, ``mAP``, ``mINP`` and ``metric``, the mean of ``mAP``
        and ``Rank-1``, in percent; with the ROC curve, true-positive rates in [0, 1], unless the
        gallery shows nobody but the queries' own people, which defines none. After them
        ``queries``, the number of queries that these metrics are of, and ``left_out``, the number
        of the others: no gallery image shows their person under another camera.

    Raises:
        DatasetError: no query has a match in the gallery.
    """
    features = query.features, gallery.features
    if cfg.TEST.AQE.ENABLED:
        features = _expanded(cfg.TEST.AQE, *features)
    labels = (query.identities, gallery.identities, query.cameras, gallery.cameras)
    if cfg.TEST.RERANK.ENABLED or cfg.TEST.ROC.ENABLED:
        distances = _distances(cfg, *features)
        curve, *by_query = evaluate_rank(distances, *labels)
    else:
        curve, *by_query = evaluate_features(*features, *labels, metric=cfg.TEST.METRIC)
    results = _percentages(curve, *by_query)
    if cfg.TEST.ROC.ENABLED:
        results.update(_true_positive_rates(distances, labels))
    scored = len(by_query[0])
    results.update({QUERIES: scored, LEFT_OUT: len(query.identities) - scored})
    return results


def _expanded(keys: CfgNode, query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    # fastreid's function needs more images than neighbours.
    neighbours = min(keys.QE_K, len(query) + len(gallery) - 1)
    return aqe(query, gallery, keys.QE_TIME, neighbours, keys.ALPHA)


def _distances(cfg: CfgNode, query: Tensor, gallery: Tensor) -> np.ndarray:
    distances = build_dist(query, gallery, cfg.TEST.METRIC)
    keys = cfg.TEST.RERANK
    if not keys.ENABLED:
        return distances
    if cfg.TEST.METRIC == "cosine":
        query, gallery = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
    jaccard = build_dist(query, gallery, "jaccard", k1=keys.K1, k2=keys.K2)
    return jaccard * (1 - keys.LAMBDA) + distances * keys.LAMBDA


def _percentages(
    curve: np.ndarray, average_precision: list[float], inverse_penalty: list[float]
) -> OrderedDict[str, float]:
    mean_precision = np.mean(average_precision)
    results = OrderedDict()
    for rank in _RANKS:
        # All matches of a gallery with fewer entries are within its last rank.
        results[f"Rank-{rank}"] = curve[min(rank, len(curve)) - 1] * 100
    results["mAP"] = mean_precision * 100
    results["mINP"] = np.mean(inverse_penalty) * 100
    results["metric"] = (mean_precision + curve[0]) / 2 * 100
    return results


def _true_positive_rates(distances: np.ndarray, labels: tuple[np.ndarray, ...]) -> dict[str, float]:
    # Its import takes long, and few evaluations need it.
    from sklearn.metrics import roc_curve

    scores, is_other = evaluate_roc(distances, *labels)
    if not is_other.any():
        logger.warning(
            "TEST.ROC.ENABLED: no query is compared with an image of another person, so there are "
            "no true-positive rates"
        )
        return {}
    false_rates, true_rates, _ = roc_curve(is_other, scores)
    return {
        f"TPR@FPR={rate:.0e}": true_rates[np.argmin(np.abs(false_rates - rate))]
        for rate in _FALSE_POSITIVE_RATES
    }


class TargetResults(OrderedDict[str, float]):
    """The metrics of a target by name.

    Attributes:
        points: operating points of each of its splits; none without ``METABIN.OPERATING_POINTS``.
    """

    points: Sequence[TargetPoints] = ()


class SplitResults(TargetResults):
    """Mean of each metric over the splits under its name, and its deviation under ``<name>_std``.

    It is as flat as fastreid's table and event storage want it.

    Attributes:
        splits: the metrics of each split.
    """

    splits: Sequence[Mapping[str, float]] = ()

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each metric."""
        return {name: self[name] for name in self.splits[0] if name in self}

    @property
    def std(self) -> dict[str, float]:
        """Sample standard deviation (n - 1) of each metric."""
        return {name: self[name + STD_SUFFIX] for name in self.mean}


def over_splits(splits: Sequence[Mapping[str, float]]) -> SplitResults:
    """Summarize the metrics of at least two splits, those that all of them have."""
    names = [name for name in splits[0] if all(name in split for split in splits)]
    values = {name: np.array([float(split[name]) for split in splits]) for name in names}
    results = SplitResults((name, float(values[name].mean())) for name in names)
    results.update((name + STD_SUFFIX, float(values[name].std(ddof=1))) for name in names)
    results.splits = splits
    return results


def write_results(results: Mapping[str, Any], targets: Sequence[str], folder: str) -> None:
    """Write the metrics of every target to ``results.json`` and ``results.csv`` in a folder.

    fastreid's ``metrics.json`` does not hold the evaluation after the last epoch. In the JSON file
    a target has its metrics by name; where it has several splits they are the means, and beside
    them are ``"std"``, the sample standard deviations, and ``"splits"``, a list with the metrics of
    each split. In the CSV file it has the line ``mean``, and then the lines ``std``, ``0``, ``1``
    and so on. Beside the metrics are the numbers of queries that were scored and left out, see
    ``score``; they have a mean and a deviation as the metrics do. Operating points are in files of
    their own, see ``write_points``.

    Args:
        results: what ``DefaultTrainer.test`` returns: metrics by target, or those of the only one.
        targets: the targets, ``DATASETS.TESTS``.
        folder: where to write.
    """
    by_target = {targets[0]: results} if len(set(targets)) == 1 else results
    Path(folder).mkdir(parents=True, exist_ok=True)
    _write(Path(folder) / JSON_NAME, _json(by_target))
    _write(Path(folder) / CSV_NAME, _csv(by_target))
    points = {name: getattr(metrics, "points", ()) for name, metrics in by_target.items()}
    if any(points.values()):
        write_points({name: each for name, each in points.items() if each}, Path(folder))


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda file: file.write(text.encode()))


def _json(by_target: Mapping[str, Mapping[str, float]]) -> str:
    numbers: dict[str, dict[str, Any]] = {}
    for target, metrics in by_target.items():
        rows = dict(_rows(metrics))
        numbers[target] = dict(rows["mean"])
        if isinstance(metrics, SplitResults):
            splits = [rows[str(split)] for split in range(len(metrics.splits))]
            numbers[target].update(std=rows["std"], splits=splits)
    return json.dumps(numbers, indent=1) + "\n"


def _csv(by_target: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        {"target": as_cell(target), "split": split, **values}
        for target, metrics in by_target.items()
        for split, values in _rows(metrics)
    ]
    columns = dict.fromkeys(["target", "split"])
    for row in rows:
        columns.update(dict.fromkeys(row))
    file = io.StringIO()
    writer = csv.DictWriter(file, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _rows(metrics: Mapping[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and metrics of each line of a target: mean, and where there are splits std and they."""
    if not isinstance(metrics, SplitResults):
        yield "mean", _numbers(metrics)
        return
    yield "mean", _numbers(metrics.mean)
    yield "std", _numbers(metrics.std)
    for split, values in enumerate(metrics.splits):
        yield str(split), _numbers(values)


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    # NumPy's own types are none of JSON's; counts stay whole numbers.
    return {
        name: value if isinstance(value, int) else float(value) for name, value in metrics.items()
    }
