"""The file of outcomes, which a run goes on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backbones.trial import Outcome
from metabin_plugin.errors import MetaBINError
from metabin_plugin.modeling.known_backbones import BACKBONES, KnownBackbone
from outputs import write_whole


class BackboneTableError(MetaBINError):
    """The outcomes cannot be read, or something cannot be written."""


@dataclass
class Results:
    """Outcomes by backbone.

    Attributes:
        machine: what the last run was made on.
        outcomes: of the backbones that were tried.
    """

    machine: str = ""
    outcomes: dict[KnownBackbone, Outcome] = field(default_factory=dict)

    def in_order(self) -> list[Outcome]:
        """Outcomes in the order of ``BACKBONES``, without those of backbones no longer there."""
        return [self.outcomes[backbone] for backbone in BACKBONES if backbone in self.outcomes]


def read_results(path: Path) -> Results:
    """Read what ``write_results`` has written; nothing where there is no file.

    Args:
        path: the file.

    Raises:
        BackboneTableError: it is not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        outcomes = [_outcome(entry) for entry in content["outcomes"]]
        return Results(content["machine"], {_backbone(o): o for o in outcomes})
    except FileNotFoundError:
        return Results()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneTableError(
            f"--json {path} is no file of outcomes ({error}); delete it, or give another"
        ) from error


def write_results(path: Path, results: Results) -> None:
    """Write all outcomes, a line for each.

    Args:
        path: the file.
        results: the outcomes.

    Raises:
        BackboneTableError: it cannot be written.
    """
    lines = ",\n".join("  " + json.dumps(asdict(outcome)) for outcome in results.in_order())
    text = f'{{\n "machine": {json.dumps(results.machine)},\n "outcomes": [\n{lines}\n ]\n}}\n'
    write_whole(path, lambda file: file.write(text.encode()), BackboneTableError)


def smallest(backbones: Sequence[KnownBackbone] = BACKBONES) -> list[KnownBackbone]:
    """The first, smallest backbone of each family.

    Args:
        backbones: smallest first within a family.
    """
    first: dict[str, KnownBackbone] = {}
    for backbone in backbones:
        first.setdefault(backbone.name, backbone)
    return list(first.values())


def _outcome(entry: dict[str, Any]) -> Outcome:
    return Outcome(**entry)


def _backbone(outcome: Outcome) -> KnownBackbone:
    return KnownBackbone(**outcome.backbone)
