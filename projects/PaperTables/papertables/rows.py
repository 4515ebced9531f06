"""The rows: one thin config for each experiment of the paper's tables.

A row's name is the path of its file below ``rows``, without ending: ``dg/BN``. Its first part is
the protocol, what the row is trained and tested on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastreid.config import CfgNode

from metabin_plugin.errors import ConfigError
from metabin_plugin.yaml_text import read_yaml_file
from papertables.settings import Settings, flat

ROWS = Path(__file__).resolve().parents[1] / "rows"
_BASE = "_BASE_"


def row_names(folder: Path = ROWS) -> list[str]:
    """All rows, sorted."""
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yml")
    )


def row_file(row: str, folder: Path = ROWS) -> Path:
    """The config of a row.

    Raises:
        ConfigError: there is no such row.
    """
    if row not in row_names(folder):
        raise ConfigError(f"row {row!r} does not exist; choose from {', '.join(row_names(folder))}")
    return folder / f"{row}.yml"


def protocol_of(row: str) -> str:
    """The first part of a row's name."""
    return row.split("/")[0]


def row_settings(row: str, folder: Path = ROWS) -> Settings:
    """What a row's config and all it inherits from set.

    Raises:
        ConfigError: there is no such row, or a file that it inherits from is missing or malformed.
    """
    path = row_file(row, folder)
    return flat(CfgNode.load_yaml_with_base(str(path)))


def own_keys(row: str, folder: Path = ROWS) -> set[str]:
    """The keys that make the row: those set by its file and its bases among the rows."""
    path = row_file(row, folder)
    keys: set[str] = set()
    while path.is_relative_to(folder):
        node: dict[str, Any] = read_yaml_file(path)
        path = (path.parent / node.pop(_BASE)).resolve()
        keys.update(flat(node))
    return keys
