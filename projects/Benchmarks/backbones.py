"""Each backbone with BIN, trained two iterations, evaluated and exported; the page of them."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.engine.train_loop import HookBase
from PIL import Image
from torch import nn

from benchmarks.measuring import describe, measure_apart
from metabin_plugin.deploy.export import (
    check_onnx,
    fold_network,
    image_size,
    network_to_export,
    random_images,
    to_onnx,
)
from metabin_plugin.engine import MetaBINTrainer, read_config
from metabin_plugin.errors import MetaBINError
from metabin_plugin.files import write_whole
from metabin_plugin.modeling.backbones import BACKBONES, FAMILIES, KnownBackbone
from metabin_plugin.norm import count_gates, gate_parameters

DOMAINS, IDENTITIES, CAMERAS = 3, 4, 4


def write_data(folder: Path, size: tuple[int, int]) -> list[str]:
    """Write the images and their manifests, which are small and always the same.

    Args:
        folder: to write into.
        size: height and width of the images.

    Returns:
        KEY VALUE pairs that name the manifests.
    """
    random = np.random.default_rng(0)
    sources = tuple(_write(folder, f"source{number}", size, random) for number in range(DOMAINS))
    target = _write(folder, "target", size, random)
    return ["DATASETS.NAMES", str(sources), "DATASETS.TESTS", str((target,))]


def _write(folder: Path, name: str, size: tuple[int, int], random: np.random.Generator) -> str:
    rows = ["path,pid,camid,subset"]
    for identity in range(IDENTITIES):
        for camera in range(CAMERAS):
            # Identities that a network could tell apart at once would leave nothing to learn.
            image = Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
            file = f"{name}_{identity}_{camera}.png"
            image.save(folder / file)
            tested = "query" if camera == 0 else "gallery"
            rows.append(f"{file},{identity},{camera},{tested if name == 'target' else 'train'}")
    manifest = folder / f"{name}.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(manifest)


CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "MetaBIN.yml")
# Height and width; the smallest map of any backbone is then 2 x 1.
SIZE = (64, 32)
IMAGES, ITERATIONS = 12, 2


class TrialError(Exception):
    """A step of a trial has done nothing."""


@dataclass
class Outcome:
    """What became of one backbone.

    Attributes:
        backbone: which; its attributes.
        features: channels of its feature map.
        layers: BIN layers.
        gates: of all of them.
        parameters: of the backbone, gates included.
        trained: whether two iterations, meta steps included, have moved weights and gates.
        evaluated: whether it was evaluated after them.
        exported: whether its ONNX file, read from its checkpoint, computes the same features.
        seconds: of the two iterations.
        error: what ended the trial early; "" if nothing.
    """

    backbone: dict[str, Any]
    features: int = 0
    layers: int = 0
    gates: int = 0
    parameters: int = 0
    trained: bool = False
    evaluated: bool = False
    exported: bool = False
    seconds: float = 0.0
    error: str = ""


class _Clock(HookBase):  # type: ignore[misc]
    """Measures iterations, and what they change."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def before_train(self) -> None:
        self.before = _checksums(self.trainer.model)

    def before_step(self) -> None:
        self.start = time.perf_counter()

    def after_step(self) -> None:
        self.seconds += time.perf_counter() - self.start

    def after_train(self) -> None:
        after = _checksums(self.trainer.model)
        still = [part for part, value in after.items() if value == self.before[part]]
        if still:
            raise TrialError(f"{ITERATIONS} iterations have not moved the {' and '.join(still)}")


def run_trial(backbone: KnownBackbone, folder: Path, exports: bool) -> Outcome:
    """Try a backbone; a failure is part of the outcome.

    Args:
        backbone: which.
        folder: an empty one, for data and checkpoint.
        exports: whether to export it too, which takes longer than all the rest.
    """
    outcome = Outcome(asdict(backbone))
    try:
        cfg = trial_config(backbone, folder)
        _train(cfg, outcome)
        if exports:
            _export(cfg, outcome)
    # Whatever a backbone fails with is what the table is made to show.
    except Exception as error:
        outcome.error = " ".join(f"{type(error).__name__}: {error}".split())
    return outcome


def trial_config(backbone: KnownBackbone, folder: Path) -> CfgNode:
    """The paper's config with another backbone, on tiny data.

    Args:
        backbone: which.
        folder: an empty one, for data and checkpoint.
    """
    values = {
        "OUTPUT_DIR": folder,
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.PRETRAIN": False,
        "METABIN.NUM_META_TRAIN": 2,
        "METABIN.ITERS_PER_EPOCH": ITERATIONS,
        "METABIN.SEED": 1,
        # Compilation would take longer than all the rest.
        "METABIN.NORM_FORM": "native",
        "SOLVER.AMP.ENABLED": False,
        "SOLVER.BASE_LR": 1e-4,
        "DATALOADER.NUM_INSTANCE": 2,
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.SIZE_TRAIN": list(SIZE),
        "INPUT.SIZE_TEST": list(SIZE),
        "SOLVER.IMS_PER_BATCH": IMAGES,
        "SOLVER.MAX_EPOCH": 1,
        "SOLVER.WARMUP_ITERS": 0,
        "TEST.EVAL_PERIOD": 1,
        "TEST.IMS_PER_BATCH": 8,
    }
    pairs = [word for key, value in values.items() for word in (key, str(value))]
    return read_config(CONFIG, [*pairs, *write_data(folder, SIZE), *backbone.options()])


def _train(cfg: CfgNode, outcome: Outcome) -> None:
    trainer, clock = MetaBINTrainer(cfg), _Clock()
    network = trainer.model.backbone
    outcome.features = cfg.MODEL.BACKBONE.FEAT_DIM
    outcome.layers, outcome.gates = count_gates(network)
    outcome.parameters = sum(parameter.numel() for parameter in network.parameters())
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # Non-local layers multiply their input by itself twice: running statistics that two
            # batches have hardly moved would let them overflow, with batch normalization as well.
            layer.momentum = 1.0
    trainer.register_hooks([clock])
    results = trainer.train()
    outcome.seconds = round(clock.seconds, 2)
    outcome.trained = True
    outcome.evaluated = bool(results)


def _export(cfg: CfgNode, outcome: Outcome) -> None:
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    size = image_size(cfg)
    folding = fold_network(network_to_export(cfg), size, tolerance=0.0)
    content = to_onnx(folding.network, random_images(2, size), {})
    check_onnx(content, folding.network, [random_images(count, size) for count in (1, 3)])
    outcome.exported = True


def _checksums(network: nn.Module) -> dict[str, float]:
    gates = gate_parameters(network)
    others = [p for name, p in network.named_parameters() if name not in gates]
    return {"gates": _sum(gates.values()), "weights": _sum(others)}


@torch.no_grad()
def _sum(parameters: Any) -> float:
    return sum(float(parameter.double().abs().sum()) for parameter in parameters)


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
    found, machine = read_results(path).outcomes, describe()
    open_ = [b for b in BACKBONES if _is_open(b, found.get(b), b in export, again)]
    for number, backbone in enumerate(open_, 1):
        outcome = _in_own_process(backbone, backbone in export)
        # Another run may have added to them meanwhile.
        with _alone_in(path.parent):
            results = read_results(path)
            results.machine = machine
            results.outcomes[backbone] = outcome
            write_results(path, results)
        words = outcome.error or f"{outcome.layers} BIN layers, {outcome.seconds:.1f} s"
        print(f"{number} of {len(open_)}: {backbone}: {words}", flush=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """A block that one process at a time is in; the lock ends with the process, however it does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
