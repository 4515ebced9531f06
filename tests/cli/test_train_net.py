"""The command line, end to end: our script, a plain fastreid script, and what users get wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.tiny_data import tiny_options, write_manifest
from tests.processes import ROOT, run_script

CONFIG = str(ROOT / "configs" / "MetaBIN-demo.yml")
OURS = [str(ROOT / "tools" / "train_net.py")]
PLAIN = ["-m", "metabin_plugin", str(Path(__file__).with_name("plain_script.py"))]


def run(script: list[str], options: list[str], *flags: str) -> subprocess.CompletedProcess[str]:
    return run_script(*script, "--config-file", CONFIG, *flags, *options)


def run_afresh(script: list[str], options: list[str]) -> subprocess.CompletedProcess[str]:
    """Run in an interpreter that has imported nothing yet."""
    command = [sys.executable, *script, "--config-file", CONFIG, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def with_output(options: list[str], folder: Path) -> list[str]:
    return [*options, "OUTPUT_DIR", str(folder)]


@pytest.mark.slow
def test_a_plain_fastreid_script_gives_the_same_numbers(tmp_path: Path) -> None:
    options = tiny_options(tmp_path)
    for name, script, start in (("ours", OURS, run), ("plain", PLAIN, run_afresh)):
        done = start(script, with_output(options, tmp_path / name))
        assert done.returncode == 0, done.stderr
    results, weights = [], []
    for name in ("ours", "plain"):
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
        state = torch.load(tmp_path / name / "model_final.pth", weights_only=True)
        weights.append(state["model"])
    assert results[0] == results[1]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any((value < 1).any() for name, value in weights[0].items() if name.endswith("gate"))


@pytest.mark.slow
def test_evaluation_alone_repeats_the_last_results(tmp_path: Path) -> None:
    options = tiny_options(tmp_path)
    assert run(OURS, options).returncode == 0
    trained = json.loads((tmp_path / "out" / "results.json").read_text())
    weights = str(tmp_path / "out" / "model_final.pth")
    # Evaluation needs no training data.
    for manifest in tmp_path.glob("source*.csv"):
        manifest.unlink()
    options = with_output([*options, "MODEL.WEIGHTS", weights], tmp_path / "again")
    done = run(OURS, options, "--eval-only")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == trained


def bad_key(folder: Path, options: list[str]) -> list[str]:
    return [*options, "METABIN.NO_SUCH_KEY", "1"]


def missing_folder(folder: Path, options: list[str]) -> list[str]:
    return [*options, "DATASETS.NAMES", '("DG_Market1501", "DG_DukeMTMC")']


def missing_manifest(folder: Path, options: list[str]) -> list[str]:
    return [*options, "DATASETS.NAMES", f'("{folder}/absent.csv",)']


def missing_column(folder: Path, options: list[str]) -> list[str]:
    manifest = folder / "source0.csv"
    manifest.write_text(manifest.read_text().replace("camid", "camera"))
    return options


def missing_file(folder: Path, options: list[str]) -> list[str]:
    (folder / "source1" / "2_1.png").unlink()
    return options


def unreadable_image(folder: Path, options: list[str]) -> list[str]:
    for image in (folder / "source2").glob("*.png"):
        image.write_bytes(image.read_bytes()[:60])
    return options


def unreadable_image_in_a_worker(folder: Path, options: list[str]) -> list[str]:
    return [*unreadable_image(folder, options), "DATALOADER.NUM_WORKERS", "1"]


def no_batch_norm(folder: Path, options: list[str]) -> list[str]:
    backbone = ["MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.BACKBONE.DEPTH", "small"]
    return [*options, *backbone, "INPUT.SIZE_TRAIN", "[256, 128]"]


def missing_weights(folder: Path, options: list[str]) -> list[str]:
    name = ["MODEL.BACKBONE.NAME", "build_mobilenetv2_backbone", "MODEL.BACKBONE.DEPTH", "1.4x"]
    return [*options, *name, "MODEL.BACKBONE.FEAT_DIM", "1792", "MODEL.BACKBONE.PRETRAIN", "True"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (bad_key, "METABIN.NO_SUCH_KEY"),
        (missing_folder, "DG_Market1501"),
        (missing_manifest, "absent.csv"),
        (missing_column, "source0.csv"),
        (missing_file, "2_1.png"),
        (unreadable_image, "source2"),
        (unreadable_image_in_a_worker, "source2"),
        (no_batch_norm, "build_vit_backbone"),
        (missing_weights, "MODEL.BACKBONE.PRETRAIN_PATH"),
    ],
)
def test_what_users_get_wrong_ends_in_one_sentence(
    tmp_path: Path, spoil: object, words: str
) -> None:
    done = run(OURS, spoil(tmp_path, tiny_options(tmp_path)))  # type: ignore[operator]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in sentence
    assert not (tmp_path / "out" / "model_final.pth").exists()


@pytest.mark.slow
def test_other_architectures_take_bin_and_other_configs_train_as_before(tmp_path: Path) -> None:
    joint = ["MODEL.META_ARCHITECTURE", "Baseline", "METABIN.HOOKS", "()"]
    done = run(PLAIN, [*tiny_options(tmp_path), *joint])
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["model"]
    assert any(name.endswith("gate") for name in state)
    plain = [*joint, "MODEL.BACKBONE.NORM", "BN", "DATALOADER.SAMPLER_TRAIN", "TrainingSampler"]
    done = run(PLAIN, with_output([*tiny_options(tmp_path), *plain], tmp_path / "bn"))
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "bn" / "model_final.pth", weights_only=True)["model"]
    assert not any(name.endswith("gate") for name in state)


@pytest.mark.slow
def test_a_manifest_can_hold_several_domains(tmp_path: Path) -> None:
    options = tiny_options(tmp_path)
    first, second = (write_manifest(tmp_path, f"part{n}", n) for n in range(2))
    lines = [
        f"{line},{domain}"
        for domain, part in enumerate((first, second))
        for line in part.read_text().splitlines()[1:]
    ]
    joined = tmp_path / "joined.csv"
    joined.write_text("path,pid,camid,subset,domain\n" + "\n".join(lines) + "\n")
    sources = ["DATASETS.NAMES", f'("{joined}",)', "METABIN.NUM_META_TRAIN", "1"]
    done = run(OURS, [*options, *sources, "SOLVER.IMS_PER_BATCH", "8"])
    assert done.returncode == 0, done.stderr
