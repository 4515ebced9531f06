"""The page of backbones, from the results of the trials."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backbones.trial import IMAGES, ITERATIONS, SIZE, Outcome, run_trial
from benchmarks.measuring import describe, measure_apart
from metabin_plugin.errors import MetaBINError
from metabin_plugin.files import write_whole
from metabin_plugin.modeling.known_backbones import BACKBONES, FAMILIES, KnownBackbone


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


ABOUT = f"""# Backbones

Written by `python projects/Benchmarks/make_backbone_table.py write` from
[`BACKBONES.json`](BACKBONES.json), which `… run --export all` makes: every backbone of fastreid's
registry that has batch normalization, with `MODEL.BACKBONE.NORM BIN` in `configs/MetaBIN.yml`,
trained {ITERATIONS} iterations with their meta steps and evaluated on images of noise ({IMAGES}
of {SIZE[0]}×{SIZE[1]} a batch). Exported means that its ONNX file gave PyTorch's features in
onnxruntime. The rows say that a backbone works, not how well. Parameters are the backbone's. The
seconds are those of the iterations in float32 on one thread (`METABIN.NORM_FORM native`), on a
machine that had other work."""
COLUMNS = (
    *("`DEPTH`", "`WITH_…`", "`FEAT_DIM`", "BIN layers", "gates", "parameters"),
    *("trained", "evaluated", "exported", "seconds"),
)
FAMILY_COLUMNS = (
    *("backbone", "`DEPTH`", "BIN layers", "gates", "trained and evaluated", "exported"),
)


def page(results: Results) -> str:
    """The page of all backbones.

    Args:
        results: the outcomes.
    """
    parts = [ABOUT, f"{_quoted(results.machine)}\n"]
    for name, family in FAMILIES.items():
        outcomes = _of_family(results, name)
        rows = [_row(outcome) for outcome in outcomes]
        parts.append(
            f"## {family.title}\n\n`MODEL.BACKBONE.NAME {name}`\n\n{_table(COLUMNS, rows)}"
        )
        failures = [outcome for outcome in outcomes if outcome.error]
        parts.extend(f"{_backbone(o)}: {_escaped(o.error)}.\n" for o in failures)
    return "\n".join(parts)


def family_table(results: Results) -> str:
    """A row for each family of backbones.

    Args:
        results: the outcomes.
    """
    rows = []
    for name, family in FAMILIES.items():
        outcomes = _of_family(results, name)
        flags = "".join(f", `{flag}`" for flag in family.flags)
        tried = sum(outcome.trained and outcome.evaluated for outcome in outcomes)
        exported = sum(outcome.exported for outcome in outcomes)
        rows.append(
            [
                f"{family.title}: `{name}`{flags}",
                " ".join(f"`{depth}`" for depth in family.depths),
                _range(outcome.layers for outcome in outcomes),
                _range(outcome.gates for outcome in outcomes),
                f"{tried} of {len(outcomes)}",
                f"{exported} of {len(outcomes)}",
            ]
        )
    return _table(FAMILY_COLUMNS, rows)


def _row(outcome: Outcome) -> list[str]:
    backbone = _backbone(outcome)
    flags = ", ".join(flag.removeprefix("WITH_") for flag in backbone.flags)
    counts = (outcome.features, outcome.layers, outcome.gates, outcome.parameters)
    steps = (outcome.trained, outcome.evaluated, outcome.exported)
    return [
        f"`{backbone.depth}`",
        flags,
        *(f"{count:,}" for count in counts),
        *("yes" if step else "–" for step in steps),
        f"{outcome.seconds:.1f}" if outcome.trained else "–",
    ]


def _of_family(results: Results, name: str) -> list[Outcome]:
    return [outcome for outcome in results.in_order() if _backbone(outcome).name == name]


def _backbone(outcome: Outcome) -> KnownBackbone:
    return KnownBackbone(**outcome.backbone)


def _range(counts: Iterable[int]) -> str:
    numbers = sorted(set(counts))
    return " to ".join(f"{number:,}" for number in dict.fromkeys((numbers[0], numbers[-1])))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _quoted(machine: str) -> str:
    return "\n".join(f"> {line}" for line in machine.splitlines())


def _escaped(text: str) -> str:
    return text.rstrip(".").replace("|", r"\|").replace("<", r"\<")


START = "<!-- backbones: generated by projects/Benchmarks/make_backbone_table.py -->"
END = "<!-- /backbones -->"


def with_block(path: Path, content: str) -> str:
    """A page with other content between the lines ``START`` and ``END``.

    Args:
        path: the page.
        content: what belongs between them.

    Raises:
        BackboneTableError: the page cannot be read, or has not one of each, in this order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BackboneTableError(f"{path} cannot be read ({error}); give a page of text") from error
    before, start, rest = text.partition(f"{START}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not start or not end or START in after or END in before:
        raise BackboneTableError(
            f"{path} must have the lines {START} and {END} once each, in this order; put them "
            "where the table belongs"
        )
    return f"{before}{start}{content}{end}{after}"


def run_all(path: Path, export: list[KnownBackbone], again: bool) -> None:
    """Try each backbone that has no outcome yet, and keep each outcome at once.

    Args:
        path: the file of outcomes.
        export: backbones that are to be exported too.
        again: whether to try those that have failed again.
    """
    results = read_results(path)
    results.machine = describe()
    open_ = [b for b in BACKBONES if _is_open(b, results.outcomes.get(b), b in export, again)]
    for number, backbone in enumerate(open_, 1):
        outcome = _in_own_process(backbone, backbone in export)
        results.outcomes[backbone] = outcome
        write_results(path, results)
        words = outcome.error or f"{outcome.layers} BIN layers, {outcome.seconds:.1f} s"
        print(f"{number} of {len(open_)}: {backbone}: {words}", flush=True)


def _is_open(backbone: KnownBackbone, outcome: Outcome | None, exports: bool, again: bool) -> bool:
    if outcome is None:
        return True
    if outcome.error:
        return again
    return exports and not outcome.exported


def _in_own_process(backbone: KnownBackbone, exports: bool) -> Outcome:
    # A large network's memory goes back, and no backbone can change fastreid for the next.
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome, _ = measure_apart(run_trial, backbone, Path(folder), exports)
        except RuntimeError:
            return Outcome(asdict(backbone), error="its process was killed, for memory perhaps")
    return outcome
