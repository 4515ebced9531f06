"""How many identities and images the datasets have, as published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Count(NamedTuple):
    """Size of a list of images."""

    identities: int
    images: int


# The paper (section 4) publishes the sum of its sources; the parts are those of the benchmark that
# it uses (Song et al., CVPR 2019). Those of MSMT17 and of CUHK03's new protocol are the line counts
# of the lists in their releases. The persons of Market-1501's gallery are those of its queries and
# the distractors' identity 0.
PUBLISHED: Mapping[str, Mapping[str, Count]] = {
    "DG_CUHK02": {"train": Count(1816, 7264)},
    "DG_CUHK03": {"train": Count(1467, 14097)},
    "DG_Market1501": {"train": Count(1501, 29419)},
    "DG_DukeMTMC": {"train": Count(1812, 36411)},
    "DG_CUHKSYSU": {"train": Count(11934, 34574)},
    "DG_VIPeR": {"train": Count(632, 1264)},
    "DG_PRID": {"train": Count(934, 1134)},
    "DG_GRID": {"train": Count(1025, 1275)},
    "DG_iLIDS": {"train": Count(119, 476)},
    "DG_MSMT17": {"train": Count(4101, 126441)},
    "DG_CUHK03_Labeled": {"train": Count(1467, 14096)},
    "DG_Market1501_Split": {
        "train": Count(751, 12936),
        "query": Count(750, 3368),
        "gallery": Count(751, 15913),
    },
    "DG_DukeMTMC_Split": {
        "train": Count(702, 16522),
        "query": Count(702, 2228),
        "gallery": Count(1110, 17661),
    },
    "DG_MSMT17_Split": {
        "train": Count(1041, 32621),
        "query": Count(3060, 11659),
        "gallery": Count(3060, 82161),
    },
    "DG_CUHK03_Split": {
        "train": Count(767, 7365),
        "query": Count(700, 1400),
        "gallery": Count(700, 5332),
    },
    "DG_CUHK03_Labeled_Split": {
        "train": Count(767, 7368),
        "query": Count(700, 1400),
        "gallery": Count(700, 5328),
    },
}

# The five sources of the paper, and their sum as it gives it.
PAPER_SOURCES = ("DG_CUHK02", "DG_CUHK03", "DG_Market1501", "DG_DukeMTMC", "DG_CUHKSYSU")
PAPER_SUM = Count(18530, 121765)
