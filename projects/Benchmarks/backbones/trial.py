"""One backbone with BIN: trained two iterations, evaluated, exported."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastreid.config import CfgNode
from fastreid.engine.train_loop import HookBase
from PIL import Image
from torch import nn

from metabin_plugin.deploy.export import (
    check_onnx,
    fold_network,
    image_size,
    network_to_export,
    random_images,
    to_onnx,
)
from metabin_plugin.engine import MetaBINTrainer, read_config
from metabin_plugin.modeling.known_backbones import KnownBackbone
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


CONFIG = str(Path(__file__).resolve().parents[3] / "configs" / "MetaBIN.yml")
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
