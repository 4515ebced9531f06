"""The rows: one thin config for each experiment of the paper's tables.

A row's name is the path of its file below ``rows``, without ending: ``dg/BN``. Its first part is
the protocol, what the row is trained and tested on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode

from metabin_plugin.config.reading import read_yaml_file
from metabin_plugin.errors import ConfigError
from metabin_plugin.files import reason

Settings = dict[str, Any]


ROWS = Path(__file__).resolve().parents[1] / "rows"
_BASE = "_BASE_"
_ABOUT, _ALL, _ROWS = "ABOUT", "ALL", "ROWS"


def flat(node: Mapping[str, Any], prefix: str = "") -> Settings:
    """Flatten nested mappings of a YAML file.

    Args:
        node: the mapping, whose values may be mappings.
        prefix: what all keys begin with.

    Returns:
        The values by their dotted keys.
    """
    values: Settings = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = value
    return values


def changes(then: Settings, now: Settings) -> list[str]:
    """One text ``KEY: then -> now`` for each key whose value differs, in the order of the keys."""
    absent = "(absent)"
    return [
        f"{key}: {then.get(key, absent)} -> {now.get(key, absent)}"
        for key in sorted({*then, *now})
        if then.get(key, absent) != now.get(key, absent)
    ]


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


@dataclass(frozen=True)
class Budget:
    """Settings that are merged over every row of a protocol.

    Attributes:
        about: one sentence that the tables carry.
        protocols: settings by protocol; a protocol that is not there is not run.
        rows: settings of single rows, which they have instead of the protocol's.
    """

    about: str
    protocols: Mapping[str, Settings]
    rows: Mapping[str, Settings] = field(default_factory=dict)

    def covers(self, row: str) -> bool:
        """Whether the budget has the row's protocol."""
        return protocol_of(row) in self.protocols

    def settings(self, row: str) -> Settings:
        """What the budget sets for a row that it covers.

        Raises:
            ConfigError: it would change a key that makes the row.
        """
        settings = {**self.protocols[protocol_of(row)], **self.rows.get(row, {})}
        overruled = sorted(own_keys(row) & set(settings))
        if overruled:
            raise ConfigError(
                f"the budget sets {', '.join(overruled)}, which makes row {row!r} what it is; "
                "remove it from the budget"
            )
        return settings


def read_budget(path: Path) -> Budget:
    """Read a budget.

    Args:
        path: a YAML file with a sentence ``ABOUT``, keys of the config below ``ALL``, and for each
            protocol that can be run (``dg``, ``supervised``) its further keys below its name; below
            ``ROWS``, by name, the keys of rows that get more or less than the others.

    Raises:
        ConfigError: the file is missing or is something else.
    """
    content = _read_mapping(path)
    about, own = content.pop(_ABOUT, ""), content.pop(_ROWS, None)
    rows = {name: _section(path, name, node) for name, node in _mapping(path, _ROWS, own).items()}
    sections = {name: _section(path, name, node) for name, node in content.items()}
    common = sections.pop(_ALL, {})
    known = {protocol_of(row) for row in row_names()}
    if not sections or not set(sections) <= known:
        raise ConfigError(
            f"--budget {path} has the sections {', '.join(content) or '(none)'}; beside {_ABOUT} "
            f"and {_ALL} give one or more of {', '.join(sorted(known))}"
        )
    protocols = {name: {**common, **node} for name, node in sections.items()}
    return Budget(str(about), protocols, rows)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml_file(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--budget {path} cannot be read: {reason(error)}; correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--budget {path} holds no KEY: VALUE mapping; see budgets/demo.yml")
    return content


def _section(path: Path, name: str, node: Any) -> Settings:
    return flat(_mapping(path, name, node))


def _mapping(path: Path, name: str, node: Any) -> dict[str, Any]:
    if node is not None and not isinstance(node, dict):
        raise ConfigError(f"--budget {path}: {name} holds no KEY: VALUE mapping; correct it")
    return node or {}
