"""``metabin threshold``: from which distance on an index has nobody like a query."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from metabin_plugin.data.build import build_nonempty_dataset
from metabin_plugin.errors import SearchError
from metabin_plugin.evaluation import Images
from metabin_plugin.operating_points import Proposal, propose_threshold
from metabin_plugin.search.cameras import standardize
from metabin_plugin.search.engine import load_faiss
from metabin_plugin.search.features import Describer, cameras_of, restored_config
from metabin_plugin.search.index_file import Gallery, check_network, read_gallery, write_gallery
from metabin_plugin.text import shown

CONFIDENCE = 0.95


def run(options: Namespace) -> None:
    """Describe a data set, find the threshold, and write it into the index.

    Raises:
        SearchError: a number is out of its range, or the data set is too small for the rate.
    """
    load_faiss()
    rate = options.false_match_rate
    if not 0 < rate < 1:
        raise SearchError(f"--false-match-rate is {rate!r}; give a number between 0 and 1")
    if options.resamplings < 1:
        raise SearchError(f"--resamplings is {options.resamplings!r}; give at least 1")
    gallery = read_gallery(options.index)
    if not gallery.header.config:
        raise SearchError(
            "the index was made of features, without a network; give its threshold to `query` by "
            "--threshold"
        )
    dataset = build_nonempty_dataset(options.dataset, ["query", "gallery"], key="--dataset")
    sides = dataset.query, dataset.gallery
    cameras = [_cameras_of(gallery, options.dataset, dataset, side) for side in sides]
    describer = Describer(restored_config(gallery.header.config, options.opts))
    check_network(gallery.header, describer.probe())
    query, entries = (
        _images(gallery, describer, side, own) for side, own in zip(sides, cameras, strict=True)
    )
    found = propose_threshold(
        query,
        entries,
        gallery.header.metric,
        rate,
        confidence=CONFIDENCE,
        resamplings=options.resamplings,
        seed=options.seed,
    )
    if found is None:
        raise SearchError(
            f"--false-match-rate is {rate!r}, of which {shown(options.dataset)} has not one "
            "comparison of different people; give a larger rate or a larger data set"
        )
    said = _in_words(found, rate, options)
    header = replace(gallery.header, threshold=found.threshold, calibration=said)
    own = gallery.cameras and replace(gallery.cameras, calibrated=gallery.cameras.statistics)
    write_gallery(options.index, replace(gallery, header=header, cameras=own))
    print(said)
    _report(gallery, found, rate)
    print(f"Written into {options.index}; `query` says nobody where no image is nearer")


def _cameras_of(gallery: Gallery, name: str, dataset: Any, items: Any) -> list[str]:
    """The cameras of images that are to be compared as an index by camera compares its own."""
    if gallery.cameras is None:
        return []
    paths, cameras = cameras_of(name, dataset, items)
    if not all(cameras):
        raise SearchError(
            f"the index is by camera, and {shown(name)} has no cameras; give a manifest of its "
            "cameras' images"
        )
    gallery.cameras.check_known(cameras, paths)
    return cameras


def _images(gallery: Gallery, describer: Describer, items: Any, of_items: list[str]) -> Images:
    features, _ = describer.describe([item[0] for item in items])
    if gallery.cameras is not None:
        features = standardize(features, of_items, gallery.cameras.statistics)
    identities, cameras = np.array([item[1:3] for item in items]).T
    return Images(torch.from_numpy(features), identities, cameras)


def _in_words(found: Proposal, rate: float, options: Namespace) -> str:
    return (
        f"Threshold {found.threshold:.6f} for a false-match rate of {rate:g} on "
        f"{shown(options.dataset)} ({CONFIDENCE:.0%} interval {found.low:.6f} to "
        f"{found.high:.6f}: {options.resamplings} resamplings of {found.people} people, seed "
        f"{options.seed})"
    )


def _report(gallery: Gallery, found: Proposal, rate: float) -> None:
    nearer = round(found.false_match_rate * found.different)
    same = (
        f", and {found.true_match_rate:.1%} of {found.same:,} of the same person"
        if found.same
        else "; there is no comparison of the same person, of whom other cameras' images are needed"
    )
    print(f"{nearer:,} of {found.different:,} comparisons of different people are nearer{same}")
    entries = gallery.index.ntotal
    print(
        f"A person who is none of the {entries:,} images of the index is expected to be taken for "
        f"{rate * entries:,.2g} of them"
    )
    if hasattr(gallery.index, "pq"):
        print("The index keeps codes: its distances are not quite those that were compared")
