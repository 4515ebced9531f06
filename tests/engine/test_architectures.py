"""fastreid's own meta-architectures train, evaluate and resume with the plugin's norms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fastreid.config import CfgNode

from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.errors import ConfigError, WeightsError
from metabin_plugin.norm import gate_parameters
from tests.engine.tiny_data import tiny_config

OPTIONS = {
    "Baseline": (),
    "MGN": (
        *("MODEL.BACKBONE.DEPTH", "50x", "MODEL.BACKBONE.FEAT_DIM", "2048"),
        *("MODEL.HEADS.EMBEDDING_DIM", "32"),
        *("INPUT.SIZE_TRAIN", "[96, 48]", "INPUT.SIZE_TEST", "[96, 48]"),
    ),
    # 12 images a batch do not divide it.
    "MoCo": ("MODEL.QUEUE_SIZE", "32"),
    "Distiller": ("KD.EMA.ENABLED", "True", "KD.EMA.MOMENTUM", "0.5"),
}
GATES = {"Baseline": 4800, "MGN": 64448, "MoCo": 4800, "Distiller": 4800}


def config(folder: Path, architecture: str, *options: str) -> CfgNode:
    return tiny_config(
        folder,
        *("MODEL.META_ARCHITECTURE", architecture, "METABIN.HOOKS", "()"),
        *("SOLVER.MAX_EPOCH", "1", "TEST.EVAL_PERIOD", "1"),
        *("INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]"),
        *OPTIONS[architecture],
        *options,
    )


def trained(cfg: CfgNode, resume: bool = False) -> MetaBINTrainer:
    trainer = MetaBINTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


CASES = [
    *((architecture, "BIN") for architecture in OPTIONS),
    *(("MoCo", norm) for norm in ("syncBN", "IN", "BNINHalf", "DualNorm")),
    ("Distiller", "BNINHalf"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "norm"), CASES)
def test_a_whole_run_trains_and_evaluates(architecture: str, norm: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, architecture, "MODEL.BACKBONE.NORM", norm)
    trainer = MetaBINTrainer(cfg)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.resume_or_load(False)
    trainer.train()
    assert 0 <= trainer._last_eval_results["mAP"] <= 100
    for name, value in trainer.model.named_parameters():
        assert torch.isfinite(value).all() and torch.equal(value, before[name]) != (
            value.requires_grad
        ), name
    gates = gate_parameters(trainer.model).values()
    assert sum(gate.numel() for gate in gates) == (GATES[architecture] if norm == "BIN" else 0)
    assert all(gate.requires_grad and 0 <= gate.min() <= gate.max() <= 1 for gate in gates)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "decay"), [("MoCo", "0."), ("Distiller", "0."), ("MoCo", "0.5")]
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    architecture: str, decay: str, tmp_path: Path
) -> None:
    average = ("METABIN.AVERAGE.DECAY", decay)
    options = ("SOLVER.MAX_EPOCH", "2", "TEST.EVAL_PERIOD", "0", *average)
    trained(config(tmp_path, architecture, *options))
    expected = final(tmp_path / "out")
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000.pth")
    (tmp_path / "out" / "model_final.pth").unlink()
    trained(config(tmp_path, architecture, *options), resume=True)
    assert expected.keys() == final(tmp_path / "out").keys()
    torch.testing.assert_close(final(tmp_path / "out"), expected, rtol=0, atol=0)


def final(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / "model_final.pth", weights_only=True)
    kept = ("model", "momentum_teacher", "average")
    return {key: content[key] for key in content if key in kept}


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 12])
def test_a_trained_network_teaches_another(classes: int, tmp_path: Path) -> None:
    trained(config(tmp_path, "Baseline", "TEST.EVAL_PERIOD", "0"))
    (tmp_path / "out").rename(tmp_path / "teacher")
    weights = tmp_path / "teacher" / "model_final.pth"
    cfg = config(tmp_path, "Distiller", *teacher(tmp_path, weights, classes))
    student = trained(cfg).model
    content = torch.load(weights, weights_only=True)["model"]
    [network] = student.model_ts
    assert torch.equal(network.heads.weight, content["heads.weight"])
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert student.state_dict().keys() == content.keys()


def teacher(folder: Path, weights: Path, classes: int) -> tuple[str, ...]:
    """A config that says neither where to run nor where ImageNet weights are."""
    path = folder / "teacher.yml"
    path.write_text(
        "MODEL:\n"
        "  BACKBONE: {NAME: build_resnet_backbone, DEPTH: 18x, FEAT_DIM: 512, NORM: BIN,\n"
        "             PRETRAIN: True, LAST_STRIDE: 1}\n"
        f"  HEADS: {{NUM_CLASSES: {classes}, WITH_BNNECK: True, POOL_LAYER: GlobalAvgPool}}\n"
    )
    return (
        *("KD.EMA.ENABLED", "False", "KD.MODEL_CONFIG", f'["{path}"]'),
        *("KD.MODEL_WEIGHTS", f'["{weights}"]'),
    )


def test_a_teacher_of_other_identities_is_refused(tmp_path: Path) -> None:
    (tmp_path / "absent.pth").write_bytes(b"")
    options = teacher(tmp_path, tmp_path / "absent.pth", 7)
    with pytest.raises(ConfigError, match=r"NUM_CLASSES 7, but the student has 12"):
        MetaBINTrainer(config(tmp_path, "Distiller", *options))


def test_a_damaged_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    options = teacher(tmp_path, tmp_path / "damaged.pth", 12)
    with pytest.raises(WeightsError, match=r"damaged\.pth"):
        MetaBINTrainer(config(tmp_path, "Distiller", *options))


def test_a_momentum_teacher_starts_where_the_student_does(tmp_path: Path) -> None:
    """Also with weights that fit in part, of a network that knows other people."""
    weights = MetaBINTrainer.build_model(config(tmp_path, "Baseline")).state_dict()
    weights["heads.weight"] = torch.zeros(7, 512)
    torch.save({"model": weights}, tmp_path / "others.pth")
    partial = ("MODEL.WEIGHTS", str(tmp_path / "others.pth"), "METABIN.PARTIAL_WEIGHTS", "True")
    trainer = MetaBINTrainer(config(tmp_path, "Distiller", *partial))
    trainer.resume_or_load(False)
    student = trainer.network.state_dict()
    assert torch.equal(student["backbone.conv1.weight"], weights["backbone.conv1.weight"])
    for name, value in trainer.network.model_ts[0].state_dict().items():
        assert torch.equal(value, student[name]), name


def test_a_checkpoint_without_momentum_teacher_gives_its_network(tmp_path: Path) -> None:
    """As one of plain fastreid, which does not keep the teacher."""
    trained(config(tmp_path, "Distiller", "TEST.EVAL_PERIOD", "0"))
    path = tmp_path / "out" / "model_final.pth"
    content = torch.load(path, weights_only=True)
    del content["momentum_teacher"]
    torch.save(content, path)
    trainer = MetaBINTrainer(config(tmp_path, "Distiller", "TEST.EVAL_PERIOD", "0"))
    trainer.resume_or_load(True)
    for name, value in trainer.network.model_ts[0].state_dict().items():
        assert torch.equal(value, content["model"][name]), name


@pytest.mark.parametrize("norm", ["BN", "IN", "BNINHalf", "DualNorm"])
def test_a_norm_without_gates_is_built_as_the_refusal_says(tmp_path: Path, norm: str) -> None:
    options = ("MODEL.BACKBONE.NORM", norm, "MODEL.HEADS.NUM_CLASSES", "12")
    with pytest.raises(ConfigError, match="has no gates") as refusal:
        MetaBINTrainer.build_model(tiny_config(tmp_path, *options))
    _, _, advice = str(refusal.value).partition("for a norm without gates ")
    pairs = re.findall(r'([A-Z_.]+) "([^"]*)"', advice)
    assert pairs
    options += tuple(word for pair in pairs for word in pair)
    MetaBINTrainer(tiny_config(tmp_path, *options))
