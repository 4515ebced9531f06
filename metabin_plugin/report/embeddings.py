"""Features of unseen targets: how far queries are from their matches, and maps of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastreid.config import CfgNode
from fastreid.evaluation import inference_context
from torch import Tensor, nn

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.evaluation import Images, evaluated_features
from metabin_plugin.report.files import FigureError, drawn, new_figure

# Fewer images than this have no neighbourhoods to map.
FEWEST_IMAGES = 4
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Target:
    """Features of a target's first split, normalized where evaluation compares angles.

    Attributes:
        query: the queries.
        gallery: the gallery.
        cosine: whether distances are 1 - cosine, else Euclidean.
    """

    query: Images
    gallery: Images
    cosine: bool

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Which pairs (queries, gallery) are true matches, and which evaluation compares at all.

        As in evaluation, an image of the query's identity by the query's camera does not count.
        """
        same = self.query.identities[:, None] == self.gallery.identities
        compared = ~same | (self.query.cameras[:, None] != self.gallery.cameras)
        return same & compared, compared


@dataclass(frozen=True)
class Distances:
    """Distances of queries from the gallery.

    Attributes:
        matches: number of pairs of a query and a true match.
        of_matches: mean distance of these pairs.
        of_all: mean distance of all pairs that evaluation compares.
    """

    matches: int
    of_matches: float
    of_all: float

    @property
    def ratio(self) -> float:
        """How near matches are, compared with any pair: below 1 is nearer."""
        return self.of_matches / self.of_all


def extract(cfg: CfgNode, network: nn.Module, dataset: str) -> Target:
    """Features of a target's first split.

    Args:
        cfg: the config, whose ``TEST.METRIC`` says how features are compared, and ``TEST.FLIP`` how
            they are made.
        network: a trained network.
        dataset: name of the target.

    Raises:
        DatasetError: the target is missing or unusable.
        FigureError: no query has a match.
    """
    loader, num_query = MetaBINTrainer.build_test_loader(cfg, dataset)
    with inference_context(network), torch.no_grad():
        features = torch.cat([evaluated_features(cfg, network, batch) for batch in loader])
    cosine = cfg.TEST.METRIC == "cosine"
    if cosine:
        features = F.normalize(features)
    labels = [
        np.array(column) for column in zip(*(i[1:3] for i in loader.dataset.img_items), strict=True)
    ]
    images = Images(features, *labels)
    target = Target(images.part(slice(num_query)), images.part(slice(num_query, None)), cosine)
    if not target.pairs()[0].any():
        raise FigureError(
            f"no query of {dataset} has a match in its gallery; choose another target"
        )
    return target


def query_distances(target: Target) -> Distances:
    """Mean distance of queries from their matches, and from all."""
    matches, compared = target.pairs()
    distances = _distances(target.query.features, target.gallery.features, target.cosine).numpy()
    return Distances(
        int(matches.sum()), float(distances[matches].mean()), float(distances[compared].mean())
    )


def choose(target: Target, identities: int) -> Target:
    """The images of some identities with a match, evenly spaced over the target's.

    Args:
        target: the target.
        identities: how many at most; 0 keeps all images, with queries and distractors that have
            no match.
    """
    if identities == 0:
        return target
    matches, _ = target.pairs()
    matched = np.unique(target.query.identities[matches.any(1)])
    places = np.linspace(0, len(matched) - 1, min(identities, len(matched))).round().astype(int)
    kept = matched[places]
    query, gallery = (
        side.part(np.isin(side.identities, kept)) for side in (target.query, target.gallery)
    )
    return Target(query, gallery, target.cosine)


def neighbour_map(target: Target) -> tuple[np.ndarray, np.ndarray]:
    """t-SNE (van der Maaten & Hinton, 2008) of queries and gallery together, the same each time.

    Args:
        target: the images to map.

    Returns:
        Places of the queries (Q, 2) and of the gallery (G, 2), without a unit.

    Raises:
        FigureError: there are too few images.
    """
    from sklearn.manifold import TSNE

    features = torch.cat([target.query.features, target.gallery.features]).double().numpy()
    if len(features) < FEWEST_IMAGES:
        raise FigureError(
            f"{len(features)} images cannot be mapped; choose a target, or --identities, with at "
            f"least {FEWEST_IMAGES}"
        )
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    return places[: len(target.query.features)], places[len(target.query.features) :]


def _distances(query: Tensor, gallery: Tensor, cosine: bool) -> Tensor:
    query, gallery = query.double(), gallery.double()
    return 1 - query @ gallery.T if cosine else torch.cdist(query, gallery)


@dataclass(frozen=True)
class Panel:
    """One network's map of one target.

    Attributes:
        target: the images that are mapped.
        query: places of the queries (Q, 2).
        gallery: places of the gallery (G, 2).
        distances: those of the whole target.
    """

    target: Target
    query: np.ndarray
    gallery: np.ndarray
    distances: Distances


def draw_maps(panels: Mapping[str, Mapping[str, Panel]], lines: bool) -> Any:
    """One row for each network and one column for each target; a colour for each identity.

    Args:
        panels: by network and target; all networks have the same targets.
        lines: whether to draw a line from each query to its matches.

    Returns:
        A matplotlib figure.
    """
    targets: Sequence[str] = list(next(iter(panels.values())))
    figure = new_figure(3.6 * len(targets) + 0.6, 3.8 * len(panels) + 0.6)
    rows = figure.subplots(len(panels), len(targets), squeeze=False)
    for (network, by_target), row in zip(panels.items(), rows, strict=True):
        row[0].set_ylabel(drawn(network))
        for (name, panel), axes in zip(by_target.items(), row, strict=True):
            _draw_panel(axes, panel, lines)
            title = f"match / all distance {panel.distances.ratio:.3f}"
            axes.set_title(f"{drawn(name.removeprefix('DG_'))}: {title}", fontsize="medium")
    handles, labels = rows[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, ncols=2, loc="outside upper center")
    for handle in legend.legend_handles:
        # Colours are of identities, and taken from the array before any other.
        handle.set_array(None)
        handle.set_color("black")
    return figure


def _draw_panel(axes: Any, panel: Panel, lines: bool) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if lines:
        _draw_lines(axes, panel)
    target = panel.target
    people = np.unique(np.concatenate([target.query.identities, target.gallery.identities]))
    sides = (
        ("query", "o", panel.query, target.query.identities),
        ("gallery", "^", panel.gallery, target.gallery.identities),
    )
    for name, marker, places, identities in sides:
        # Neighbours in the order of the identities should not look alike.
        colours = np.searchsorted(people, identities) * 0.618 % 1
        axes.scatter(
            *places.T, s=14, marker=marker, c=colours, cmap="hsv", vmin=0, vmax=1, label=name
        )


def _draw_lines(axes: Any, panel: Panel) -> None:
    from matplotlib.collections import LineCollection

    pairs = np.argwhere(panel.target.pairs()[0])
    ends = np.stack([panel.query[pairs[:, 0]], panel.gallery[pairs[:, 1]]], axis=1)
    axes.add_collection(LineCollection(list(ends), colors="grey", linewidths=0.5))
