"""The datasets of the domain-generalizable person re-identification benchmarks."""

from __future__ import annotations

from metabin_plugin.data.datasets.cuhk02 import DG_CUHK02
from metabin_plugin.data.datasets.cuhk03 import DG_CUHK03, DG_CUHK03_Labeled
from metabin_plugin.data.datasets.cuhk03_split import DG_CUHK03_Labeled_Split, DG_CUHK03_Split
from metabin_plugin.data.datasets.cuhk_sysu import DG_CUHKSYSU
from metabin_plugin.data.datasets.dukemtmc import DG_DukeMTMC, DG_DukeMTMC_Split
from metabin_plugin.data.datasets.grid import DG_GRID
from metabin_plugin.data.datasets.ilids import DG_iLIDS
from metabin_plugin.data.datasets.market1501 import DG_Market1501, DG_Market1501_Split
from metabin_plugin.data.datasets.msmt17 import DG_MSMT17, DG_MSMT17_Split
from metabin_plugin.data.datasets.prid import DG_PRID
from metabin_plugin.data.datasets.viper import DG_VIPeR

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
