"""The datasets of the domain-generalizable person re-identification benchmarks."""

from __future__ import annotations

from metabin_plugin.data.datasets.cuhk import (
    DG_CUHK02,
    DG_CUHK03,
    DG_CUHKSYSU,
    DG_CUHK03_Labeled,
    DG_CUHK03_Labeled_Split,
    DG_CUHK03_Split,
)
from metabin_plugin.data.datasets.large_datasets import (
    DG_MSMT17,
    DG_DukeMTMC,
    DG_DukeMTMC_Split,
    DG_Market1501,
    DG_Market1501_Split,
    DG_MSMT17_Split,
)
from metabin_plugin.data.datasets.small_targets import DG_GRID, DG_PRID, DG_iLIDS, DG_VIPeR

# The paper's five sources and four targets.
SOURCES = (DG_CUHK02, DG_CUHK03, DG_Market1501, DG_DukeMTMC, DG_CUHKSYSU)
TARGETS = (DG_VIPeR, DG_PRID, DG_GRID, DG_iLIDS)
# For the protocols of later papers: all images, and the datasets in their own partitions.
FURTHER_SOURCES = (DG_MSMT17, DG_CUHK03_Labeled)
OWN_SPLITS = (
    DG_Market1501_Split,
    DG_DukeMTMC_Split,
    DG_MSMT17_Split,
    DG_CUHK03_Split,
    DG_CUHK03_Labeled_Split,
)

__all__ = [
    "DG_CUHK02",
    "DG_CUHK03",
    "DG_CUHKSYSU",
    "DG_GRID",
    "DG_MSMT17",
    "DG_PRID",
    "FURTHER_SOURCES",
    "OWN_SPLITS",
    "SOURCES",
    "TARGETS",
    "DG_CUHK03_Labeled",
    "DG_CUHK03_Labeled_Split",
    "DG_CUHK03_Split",
    "DG_DukeMTMC",
    "DG_DukeMTMC_Split",
    "DG_MSMT17_Split",
    "DG_Market1501",
    "DG_Market1501_Split",
    "DG_VIPeR",
    "DG_iLIDS",
]
