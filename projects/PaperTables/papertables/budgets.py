"""Budgets: how large and how long the runs are, and on which data; the same for all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabin_plugin.errors import ConfigError
from metabin_plugin.files import reason
from metabin_plugin.yaml_text import read_yaml_file
from papertables.rows import own_keys, protocol_of, row_names
from papertables.settings import Settings, flat

_ABOUT, _ALL = "ABOUT", "ALL"


@dataclass(frozen=True)
class Budget:
    """Settings that are merged over every row of a protocol.

    Attributes:
        about: one sentence that the tables carry.
        protocols: settings by protocol; a protocol that is not there is not run.
    """

    about: str
    protocols: Mapping[str, Settings]

    def covers(self, row: str) -> bool:
        """Whether the budget has the row's protocol."""
        return protocol_of(row) in self.protocols

    def settings(self, row: str) -> Settings:
        """What the budget sets for a row that it covers.

        Raises:
            ConfigError: it would change a key that makes the row.
        """
        settings = self.protocols[protocol_of(row)]
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
            protocol that can be run (``dg``, ``supervised``) its further keys below its name.

    Raises:
        ConfigError: the file is missing or is something else.
    """
    content = _read_mapping(path)
    about = content.pop(_ABOUT, "")
    sections = {name: _section(path, name, node) for name, node in content.items()}
    common = sections.pop(_ALL, {})
    known = {protocol_of(row) for row in row_names()}
    if not sections or not set(sections) <= known:
        raise ConfigError(
            f"--budget {path} has the sections {', '.join(content) or '(none)'}; beside {_ABOUT} "
            f"and {_ALL} give one or more of {', '.join(sorted(known))}"
        )
    return Budget(str(about), {name: {**common, **node} for name, node in sections.items()})


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml_file(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--budget {path} cannot be read: {reason(error)}; correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--budget {path} holds no KEY: VALUE mapping; see budgets/demo.yml")
    return content


def _section(path: Path, name: str, node: Any) -> Settings:
    if node is not None and not isinstance(node, dict):
        raise ConfigError(f"--budget {path}: {name} holds no KEY: VALUE mapping; correct it")
    return flat(node or {})
