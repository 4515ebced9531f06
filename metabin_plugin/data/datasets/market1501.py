"""Market-1501: six cameras in front of a supermarket."""

from __future__ import annotations

import re

from metabin_plugin.data.datasets.partitioned import PartitionedSource
from metabin_plugin.data.datasets.scan import Release


class DG_Market1501(PartitionedSource):
    """All images of Market-1501 (1,501 identities, 29,419 images).

    Identity -1 (false detections) and 0 (distractors) are left out.

    Reference: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.
    """

    release = Release(
        title="Market-1501",
        layout=(
            "Market-1501-v15.09.15/{bounding_box_train,bounding_box_test,query}/"
            "0002_c1s1_000451_03.jpg"
        ),
        home_page="Market-1501 Dataset, Liang Zheng",
    )
    dataset_name = "market1501"
    folder = "Market-1501-v15.09.15"
    pattern = re.compile(r"(-1|\d+)_c([1-6])s\d+_")
    junk = frozenset({-1, 0})
