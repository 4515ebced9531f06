"""The commands that draw figures, on the files that trainings leave."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from metabin_plugin.cli.main import execute
from metabin_plugin.engine import MetaBINTrainer, read_config
from metabin_plugin.errors import MetaBINError
from tests.engine.tiny_data import CONFIGS, tiny_options, write_manifest
from tests.processes import ROOT, run_script

SMALL = ("DATALOADER.NUM_WORKERS", "0")


def command(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_script(ROOT / "tools" / script, *arguments)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """OUTPUT_DIRs of MetaBIN, with a checkpoint after each of two epochs, and of joint BIN."""
    folder = tmp_path_factory.mktemp("runs")
    joint = ["MODEL.META_ARCHITECTURE", "Baseline", "METABIN.HOOKS", "()", "TEST.EVAL_PERIOD", "1"]
    found = {}
    for name, options in {"metabin": [], "joint": joint}.items():
        found[name] = folder / name
        found[name].mkdir()
        options = [*tiny_options(folder), *options, "OUTPUT_DIR", str(found[name])]
        cfg = read_config(str(CONFIGS / "MetaBIN.yml"), options)
        # As train_net.py does.
        (found[name] / "config.yaml").write_text(cfg.dump())
        trainer = MetaBINTrainer(cfg)
        trainer.train()
    return found


@pytest.mark.slow
def test_gates_of_two_trainings(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [runs[name] / "model_final.pth" for name in ("joint", "metabin")]
    execute(["plot", "gates", *map(str, paths), "--output", str(tmp_path / "gates.png")])
    said = capsys.readouterr().out
    assert {path for path in tmp_path.iterdir() if str(path) not in said} == set()
    rows = read_table(tmp_path / "gates.csv")
    assert [row["network"] for row in rows] == ["joint/model_final"] * 20 + [
        "metabin/model_final"
    ] * 20
    states = [torch.load(path, weights_only=True)["model"] for path in paths]
    for i, row in enumerate(rows):
        gate = states[i // 20][f"{row['layer']}.gate"]
        assert float(row["mean"]) == pytest.approx(gate.double().mean().item(), rel=1e-5)
        assert int(row["gates"]) == len(gate)


@pytest.mark.slow
def test_gradients_over_a_training(runs: dict[str, Path], tmp_path: Path) -> None:
    paths = [runs["metabin"] / name for name in ("model_final.pth", "model_0000.pth")]
    output = tmp_path / "gradients.png"
    done = command(
        "plot_gate_gradients.py", *paths, "--batches", 2, "--output", output, "--opts", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert output.read_bytes().startswith(b"\x89PNG")
    rows = read_table(tmp_path / "gradients.csv")
    terms = ["scatter", "shuffle", "triplet"]
    assert [(row["iteration"], row["term"]) for row in rows] == [
        (iteration, term) for iteration in ("2", "4") for term in terms
    ]
    for row in rows:
        assert row["batches"] == "2" and row["gates"] == "4800"
        shares = [float(row[sign]) for sign in ("positive", "negative", "zero")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        # The triplet loss of people so easy to tell apart can be 0, with all its gradients.
        assert row["term"] == "triplet" or min(shares[:2]) > 0.1
    # Of each layer as many numbers, which together are those of the network.
    layers = read_table(tmp_path / "gradients_layers.csv")
    assert len(layers) == 2 * 3 * 20
    last = [row for row in layers if row["iteration"] == "4" and row["term"] == "shuffle"]
    for number in ("positive", "negative", "mean"):
        weighted = sum(float(row[number]) * int(row["gates"]) for row in last) / 4800
        assert weighted == pytest.approx(float(rows[-2][number]), rel=1e-3, abs=1e-9)


@pytest.mark.slow
def test_gradients_of_a_jointly_trained_network(runs: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "gradients.png"
    losses = ["METABIN.META_TRAIN_LOSSES", "('CrossEntropyLoss',)"]
    weights = runs["joint"] / "model_final.pth"
    few = ["--batches", "1", "--output", str(output), "--opts", *SMALL, *losses]
    execute(["plot", "gate-gradients", str(weights), *few])
    (row,) = read_table(tmp_path / "gradients.csv")
    assert row["term"] == "cls" and row["iteration"] == "4" and row["std_of_positive"] == "nan"


@pytest.mark.slow
def test_embeddings_of_two_networks(runs: dict[str, Path], tmp_path: Path) -> None:
    paths = [runs[name] / "model_final.pth" for name in ("joint", "metabin")]
    output = tmp_path / "maps.png"
    done = command(
        *("plot_embeddings.py", *paths, "--labels", "BIN", "MetaBIN", "--lines"),
        *("--output", output, "--opts", *SMALL),
    )
    assert done.returncode == 0, done.stderr
    assert output.read_bytes().startswith(b"\x89PNG")
    places = read_table(tmp_path / "maps.csv")
    for network in ("BIN", "MetaBIN"):
        roles = [row["role"] for row in places if row["network"] == network]
        # The first split: a query and a gallery image of each of four people.
        assert roles == ["query"] * roles.count("query") + ["gallery"] * roles.count("gallery")
        assert set(roles) == {"query", "gallery"}
    distances = read_table(tmp_path / "maps_distances.csv")
    assert [row["network"] for row in distances] == ["BIN", "MetaBIN"]
    for row in distances:
        near, far = float(row["match_distance"]), float(row["distance"])
        assert float(row["ratio"]) == pytest.approx(near / far, rel=1e-4)
        assert int(row["matches"]) > 0


@pytest.mark.slow
def test_curves_of_two_trainings(runs: dict[str, Path], tmp_path: Path) -> None:
    folders = [str(runs[name]) for name in ("joint", "metabin")]
    execute(["plot", "training", *folders, "--output", str(tmp_path / "curves.png")])
    rows = read_table(tmp_path / "curves.csv")
    scalars = {run: {r["scalar"] for r in rows if r["run"] == run} for run in ("joint", "metabin")}
    assert {"total_loss", "loss_cls", "lr", "mAP"} <= scalars["joint"]
    assert {"mtrain_loss_scatter", "inner_lr"} <= scalars["metabin"]
    assert "inner_lr" not in scalars["joint"]


@pytest.mark.slow
def test_what_users_get_wrong_is_said_in_one_sentence(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    weights = str(runs["metabin"] / "model_final.pth")
    alone = tmp_path / "alone.pth"
    shutil.copy(weights, alone)
    gradients, embeddings = "gate-gradients", "embeddings"
    wrong: list[tuple[str, str, list[str]]] = [
        ("cannot be read", "gates", [str(tmp_path / "absent.pth")]),
        ("has no config.yaml beside it", gradients, [str(alone)]),
        ("--batches is 0", gradients, [weights, "--batches", "0"]),
        ("no gates", gradients, [weights, "--opts", "MODEL.BACKBONE.NORM", "BN"]),
        ("Non-existent key: NO.KEY", embeddings, [weights, "--opts", "NO.KEY", "1"]),
        ("no_such_target", embeddings, [weights, "--datasets", "no_such_target"]),
        ("--identities is -1", embeddings, [weights, "--identities", "-1"]),
        ("DATASETS.TESTS is empty", embeddings, [weights, "--opts", "DATASETS.TESTS", "()"]),
    ]
    for words, figure, (checkpoint, *more) in wrong:
        with pytest.raises(MetaBINError, match=words):
            execute(["plot", figure, checkpoint, "--output", str(tmp_path / "x.png"), *more])
    manifest = write_manifest(tmp_path, "site", 0, subset="test")
    content = manifest.read_bytes()
    maps = ["plot", embeddings, weights, "--output", str(manifest.with_suffix(".png"))]
    with pytest.raises(MetaBINError, match=r"numbers into \S+site\.csv, which is another file"):
        execute([*maps, "--datasets", str(manifest)])
    assert manifest.read_bytes() == content
    manifest.unlink()
    done = command("plot_training.py", tmp_path, "--output", tmp_path / "x.png")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "metrics.json cannot be read" in done.stderr
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob("*.csv"))
