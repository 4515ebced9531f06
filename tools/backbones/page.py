"""Outcomes as tables: one row for each backbone, and one for each family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backbones.results import Results
from backbones.trial import IMAGES, ITERATIONS, SIZE, Outcome
from metabin_plugin.modeling.known_backbones import FAMILIES, KnownBackbone

ABOUT = f"""# Backbones

Written by `python tools/make_backbone_table.py write` from [`BACKBONES.json`](BACKBONES.json),
which `… run --export all` makes: every backbone of fastreid's registry that has batch
normalization, with `MODEL.BACKBONE.NORM BIN` in `configs/MetaBIN.yml`, trained {ITERATIONS}
iterations with their meta steps and evaluated on images of noise ({IMAGES} of
{SIZE[0]}×{SIZE[1]} a batch). Exported means that its ONNX file gave PyTorch's features in
onnxruntime. The rows say that a backbone works, not how well. Parameters are the backbone's. The
seconds are those of the iterations in float32 on one thread (`METABIN.NORM_FORM native`), on a
machine that had other work.
"""
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
