"""The command ``metabin``: its help needs nothing but Python, and configs are found by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metabin_plugin.cli import arguments
from metabin_plugin.cli.main import COMMANDS, parse
from metabin_plugin.deploy import export
from metabin_plugin.engine import read_config
from metabin_plugin.repository import RECIPES, config_path
from metabin_plugin.search import engine

ROOT = Path(__file__).parents[2]
PLOTS = ("embeddings", "gates", "gate-gradients", "training")
HELP = [[], *([name] for name in COMMANDS), *(["plot", figure] for figure in PLOTS)]
SCRIPTS = [
    *("train_net", "check_datasets", "make_manifest", "search", "visualize", "export_onnx", "demo"),
    *("convert_weights", "plot_embeddings", "plot_gates", "plot_gate_gradients", "plot_training"),
    *("benchmark", "make_demo_data", "extract_cuhk03", "crop_cuhk_sysu"),
    "make_reference_pages",
]
PROJECTS = ["projects/AugMining/train_net.py", "projects/DIMN/train_net.py"]

# Runs command lines one after the other, and then tells what else than Python itself was imported.
IMPORTED = """
import contextlib, io, runpy, sys, sysconfig

before = set(sys.modules)
for line in sys.argv[1:]:
    script, *words = line.split()
    sys.argv = [script, *words]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            if script == "metabin":
                runpy.run_module("metabin_plugin.cli.main", run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, line
    assert printed.getvalue().startswith("usage: "), line
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(names - sys.stdlib_module_names))
"""


def imported_by(lines: list[str]) -> set[str]:
    """Top names of the modules, beside those of Python, that some command lines import."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *lines],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_help_imports_nothing_that_takes_time() -> None:
    lines = [" ".join(["metabin", *words, "--help"]) for words in HELP]
    assert len(lines) == 20
    assert imported_by(lines) <= {"metabin_plugin", "__mp_main__"}


def test_help_of_the_scripts_imports_nothing_that_takes_time() -> None:
    scripts = [*(f"tools/{name}.py" for name in SCRIPTS), *PROJECTS]
    lines = [f"{script} --help" for script in scripts]
    assert imported_by(lines) <= {"metabin_plugin", "__mp_main__"}


def test_choices_are_those_of_what_does_the_work() -> None:
    assert (arguments.KINDS, arguments.METRICS) == (engine.KINDS, engine.METRICS)
    assert arguments.OPSETS == export.OPSETS


@pytest.mark.parametrize("words", [["fly"], ["plot", "tsne"], ["check"], ["train", "--gpus"], []])
def test_what_is_no_command_is_refused_at_once(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words)
    # `train` takes anything behind its options, as KEY VALUE pairs.
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: metabin")


PAIRS = {
    "train": ["--config", "x.yml"],
    "eval": [],
    "check": ["--config", "x.yml"],
    "index": ["--gallery", "x", "--output", "x.index"],
    "ranked": ["--config", "x.yml", "--dataset", "x"],
    "export": ["--output", "x.onnx"],
    "demo": ["--output", "x"],
}


@pytest.mark.parametrize("command", PAIRS)
def test_an_option_behind_the_pairs_is_told_its_place(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or it would be taken for a key, or for a pair without its value."""
    pairs = ["MODEL.WEIGHTS", "x.pth", "SOLVER.BASE_LR", "-1"]
    assert parse([command, *PAIRS[command], *pairs]).opts == pairs
    for last in (["--skip-unreadable"], ["--output", "y"]):
        with pytest.raises(SystemExit) as end:
            parse([command, *PAIRS[command], *pairs, *last])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert f"{last[0]} is behind the KEY VALUE pairs; give options before them" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ranked --config x.yml --dataset x --ids 3,x", "--ids: '3,x' is not a list of whole"),
        (
            "demo --seeds one",
            "--seeds: 'one' is not a list of whole numbers; give 3,17 for example",
        ),
        (
            "check --datasets x --workers two",
            "--workers: 'two' is not a whole number of 0 or more; give 4 for example",
        ),
        ("check --datasets x --workers -1", "--workers: '-1' is not a whole number of 0 or more"),
    ],
)
def test_what_is_no_number_is_said_in_words(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(line.split())
    assert words in capsys.readouterr().err


def test_a_number_that_is_named_twice_is_meant_once() -> None:
    assert parse(["demo", "--seeds", "2,1,2"]).seeds == [2, 1]


def test_training_takes_the_arguments_of_fastreid() -> None:
    from fastreid.engine import default_argument_parser

    words = ["--config-file", "x.yml", "--resume", "--num-gpus", "2", "--num-machines", "3"]
    words += ["--machine-rank", "1", "--dist-url", "tcp://a:1", "--eval-only", "SOLVER.OPT", "SGD"]
    theirs = vars(default_argument_parser().parse_args(words))
    assert vars(parse(["train", *words])) == {"command": "train", **theirs}
    unsaid = vars(default_argument_parser().parse_args([])) | {"dist_url": "auto"}
    assert vars(parse(["train"])) == {"command": "train", **unsaid}
    assert vars(parse(["eval"])) == {"command": "eval", **unsaid, "eval_only": True}
    assert parse(["eval", "--config", "x.yml"]).config_file == "x.yml"


def test_a_recipe_is_found_by_name_with_all_that_it_inherits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = sorted(path.relative_to(RECIPES) for path in RECIPES.rglob("*.yml"))
    assert len(recipes) > 25
    for recipe in recipes:
        options = parse(["train", "--config", str(recipe)])
        assert Path(options.config_file) == RECIPES / recipe
    protocol = read_config(config_path("protocols/P1-ResNet50.yml"), [])
    assert protocol.MODEL.BACKBONE.NAME == "build_resnet_backbone"
    assert protocol.MODEL.BACKBONE.NORM == "BIN"


def test_a_path_comes_before_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("MetaBIN.yml").write_text("OUTPUT_DIR: mine\n")
    assert config_path("MetaBIN.yml") == "MetaBIN.yml"
    elsewhere = str(tmp_path / "MetaBIN.yml")
    assert config_path(elsewhere) == elsewhere
    for nothing in ("", "no-such.yml", "protocols", "x" * 5000, "a\0b"):
        assert config_path(nothing) == nothing
