"""Market-1501: six cameras in front of a supermarket."""

from __future__ import annotations

import re

from metabin_plugin.data.datasets.partitioned import (
    Partitioned,
    PartitionedOwnSplit,
    PartitionedSource,
)
from metabin_plugin.data.datasets.scan import Release
from metabin_plugin.data.nobody import DISTRACTOR, JUNK

_LAYOUT = Partitioned(
    release=Release(
        title="Market-1501",
        layout=(
            "Market-1501-v15.09.15/{bounding_box_train,bounding_box_test,query}/"
            "0002_c1s1_000451_03.jpg"
        ),
        home_page="Market-1501 Dataset, Liang Zheng",
    ),
    folder="Market-1501-v15.09.15",
    pattern=re.compile(r"(-1|\d+)_c([1-6])s\d+_"),
    false_detections=frozenset({JUNK}),
    distractors=frozenset({DISTRACTOR}),
)


class DG_Market1501(PartitionedSource):
    """All images of Market-1501 (1,501 identities, 29,419 images).

    Of the 36,036 images of the release, the 3,819 of identity -1 (false detections) and the 2,798
    of identity 0 (distractors) are left out.

    Reference: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """

    layout = _LAYOUT
    release = _LAYOUT.release
    dataset_name = "market1501"


class DG_Market1501_Split(PartitionedOwnSplit):
    """Market-1501 in its own partition.

    751 identities with 12,936 images to train on; 3,368 queries of 750 others against 15,913
    gallery images, 2,798 distractors of identity 0 among them.

    Reference: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """

    layout = _LAYOUT
    release = _LAYOUT.release
    dataset_name = "market1501"
    _junk_pids: tuple[int, ...] = (DISTRACTOR,)
