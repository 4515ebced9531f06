"""The command of training with weight files that are damaged or would run code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

import metabin_plugin
from metabin_plugin.errors import MetaBINError
from tests.engine.tiny_data import CONFIGS, tiny_options
from tests.processes import context, start
from tests.weights.weight_file_samples import flip_bit, save_malicious


def run_main(commands: list[list[str]], parent: Connection) -> None:
    """Run commands one after the other; what each ended with: an error's kind and sentence."""
    metabin_plugin.register()
    from fastreid.engine import default_argument_parser

    from metabin_plugin.engine import train_or_evaluate

    for command in commands:
        try:
            train_or_evaluate(default_argument_parser().parse_args(command))
            parent.send(("", ""))
        except MetaBINError as error:
            parent.send((type(error).__name__, str(error)))


def outcomes(commands: list[list[str]]) -> list[tuple[str, str]]:
    ours, theirs = context().Pipe(duplex=False)
    process = start(run_main, commands, theirs)
    theirs.close()
    found = [ours.recv() for _ in commands]
    process.join()
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder with a finished run of two epochs in "out", and its options."""
    folder = tmp_path_factory.mktemp("trained")
    options = tiny_options(folder)
    config = ["--config-file", str(CONFIGS / "MetaBIN-demo.yml")]
    assert outcomes([[*config, *options]]) == [("", "")]
    return folder, options


def empty(path: Path, marker: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path, marker: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def bit_flipped(path: Path, marker: Path) -> None:
    weight = torch.load(path)["model"]["backbone.conv1.weight"]
    flip_bit(path, path.read_bytes().index(weight.numpy().tobytes()) + 2)


def malicious(path: Path, marker: Path) -> None:
    save_malicious(path, marker)


def malicious_in_the_old_format(path: Path, marker: Path) -> None:
    save_malicious(path, marker, legacy=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (empty, "is empty"),
        (truncated, "is damaged"),
        (bit_flipped, "is damaged (wrong checksum"),
        (malicious, "posix.system"),
        (malicious_in_the_old_format, "posix.system|the format before PyTorch 1.6"),
    ],
)
def test_bad_files_end_training_resume_and_evaluation_in_one_sentence(
    trained: tuple[Path, list[str]],
    tmp_path: Path,
    spoil: Callable[[Path, Path], None],
    words: str,
) -> None:
    folder, options = trained
    shutil.copytree(folder / "out", tmp_path / "out")
    bad, marker = tmp_path / "out" / "model_final.pth", tmp_path / "marker"
    spoil(bad, marker)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.pth")}
    common = ["--config-file", str(CONFIGS / "MetaBIN-demo.yml")]
    options = [*options, "OUTPUT_DIR", str(tmp_path / "out")]
    weights, anew = ["MODEL.WEIGHTS", str(bad)], ["OUTPUT_DIR", str(tmp_path / "new")]
    pretrained = ["MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", str(bad)]
    found = outcomes(
        [
            [*common, "--resume", *options],
            [*common, "--eval-only", *options, *weights],
            [*common, *options, *weights, *anew],
            [*common, *options, *pretrained, *anew],
        ]
    )
    for kind, sentence in found:
        assert kind == "WeightsError"
        assert any(word in sentence for word in words.split("|"))
        assert str(bad) in sentence
        assert "\n" not in sentence
    assert not marker.exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.pth")} == before


@pytest.mark.slow
def test_a_misfit_ends_training_and_evaluation_and_may_be_meant(
    trained: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, options = trained
    common = ["--config-file", str(CONFIGS / "MetaBIN-demo.yml")]
    joint = ["MODEL.META_ARCHITECTURE", "Baseline", "METABIN.HOOKS", "()"]
    plain = [*options, *joint, "MODEL.BACKBONE.NORM", "BN", "OUTPUT_DIR", str(tmp_path / "out")]
    weights = ["MODEL.WEIGHTS", str(folder / "out" / "model_final.pth")]
    meant = ["METABIN.PARTIAL_WEIGHTS", "True", "SOLVER.MAX_EPOCH", "1"]
    trains, evaluates, partial = outcomes(
        [
            [*common, *plain, *weights],
            [*common, "--eval-only", *plain, *weights],
            [*common, *plain, *weights, *meant],
        ]
    )
    for kind, sentence in (trains, evaluates):
        assert kind == "WeightsError"
        assert "60 unknown to the network (backbone.bn1.gate" in sentence
        assert "gates and instance parameters" in sentence
    assert partial == ("", "")
