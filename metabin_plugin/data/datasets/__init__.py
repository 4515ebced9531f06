"""The nine datasets of the domain-generalizable person re-identification benchmark."""

from __future__ import annotations

from metabin_plugin.data.datasets.cuhk02 import DG_CUHK02
from metabin_plugin.data.datasets.cuhk03 import DG_CUHK03
from metabin_plugin.data.datasets.cuhk_sysu import DG_CUHKSYSU
from metabin_plugin.data.datasets.dukemtmc import DG_DukeMTMC
from metabin_plugin.data.datasets.grid import DG_GRID
from metabin_plugin.data.datasets.ilids import DG_iLIDS
from metabin_plugin.data.datasets.market1501 import DG_Market1501
from metabin_plugin.data.datasets.prid import DG_PRID
from metabin_plugin.data.datasets.viper import DG_VIPeR

SOURCES = (DG_CUHK02, DG_CUHK03, DG_Market1501, DG_DukeMTMC, DG_CUHKSYSU)
TARGETS = (DG_VIPeR, DG_PRID, DG_GRID, DG_iLIDS)

__all__ = [
    "DG_CUHK02",
    "DG_CUHK03",
    "DG_CUHKSYSU",
    "DG_GRID",
    "DG_PRID",
    "SOURCES",
    "TARGETS",
    "DG_DukeMTMC",
    "DG_Market1501",
    "DG_VIPeR",
    "DG_iLIDS",
]
