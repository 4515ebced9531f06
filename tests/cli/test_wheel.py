"""The built wheel, installed where the repository is not: everything works from an empty folder."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metabin_plugin.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
SOURCES = ["metabin_plugin", "configs", "projects/Demo/demo_data"]
ABOUT = ["pyproject.toml", "setup.py", "README.md", "LICENSE"]
# Two iterations on small images, of a small network from random weights.
SHORT = {
    "SOLVER.MAX_EPOCH": "1",
    "METABIN.ITERS_PER_EPOCH": "2",
    "METABIN.NORM_FORM": "native",
    # Two iterations have moved no gate further; each open layer is written for seconds.
    "METABIN.FOLD_TOLERANCE": "0.1",
    "DATALOADER.NUM_WORKERS": "1",
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.DEPTH": "18x",
    "MODEL.BACKBONE.FEAT_DIM": "512",
    "MODEL.BACKBONE.PRETRAIN": "False",
    "INPUT.SIZE_TRAIN": "[64, 32]",
    "INPUT.SIZE_TEST": "[64, 32]",
}
TRAINED = ["MODEL.WEIGHTS", "logs/shop/model_final.pth"]
FORKING = Path(__file__).parents[1] / "forking.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network, of a copy in which nothing was built before."""
    copy, built = (tmp_path_factory.mktemp(name) for name in ("copy", "built"))
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ABOUT:
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(built), str(copy)], check=True, timeout=300)
    (path,) = built.glob("*.whl")
    return path


def without(*names: str) -> dict[str, str]:
    """This environment but for some variables."""
    return {name: value for name, value in os.environ.items() if name not in names}


class Installed:
    """An environment with the wheel, and the packages of this one.

    A context manager: in it one process has imported all that commands need, and forks for them.

    Args:
        folder: an empty one.
        wheel: what to install.

    Attributes:
        home: folder of the package.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, with_pip=False)
        self.scripts = folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.scripts / "python"
        names = {"base": str(folder), "platbase": str(folder)}
        packages = Path(sysconfig.get_path("purelib", "venv", names))
        # Of this environment, but not what its own .pth files say: the repository, for example.
        here = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
        (packages / "libraries.pth").write_text("\n".join(here))
        pip = [self.python, "-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed"]
        pip += ["--no-compile"]
        subprocess.run([*map(str, pip), str(wheel)], check=True, timeout=300)

    def __enter__(self) -> Installed:
        self._warm = subprocess.Popen(
            [str(self.python), str(FORKING)],
            env=without("PYTHONPATH"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.home = Path(self._answer()).parent
        return self

    def __exit__(self, *_exception: object) -> None:
        self._warm.communicate()

    def metabin(self, folder: Path, *words: str, **environment: str) -> str:
        """What a command of ``metabin`` says that succeeds, in a folder."""
        command = [str(self.python), "-m", "metabin_plugin.cli.main", *words]
        output = folder / "printed.txt"
        task = command, str(folder), {**without("PYTHONPATH"), **environment}, str(output)
        assert self._warm.stdin is not None
        print(json.dumps(task), file=self._warm.stdin, flush=True)
        status, said = self._answer(), output.read_text("utf-8")
        assert status == "0", f"{words}: {said[-3000:]}"
        return said

    def _answer(self) -> str:
        assert self._warm.stdout is not None
        return self._warm.stdout.readline().strip()

    def run(self, folder: Path, *words: str) -> str:
        """What the program ``metabin`` says in a process of its own that succeeds, in a folder."""
        done = subprocess.run(
            [str(self.scripts / "metabin"), *words],
            cwd=folder,
            env=without("PYTHONPATH"),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Installed]:
    with Installed(tmp_path_factory.mktemp("environment"), wheel) as environment:
        yield environment


def draw(folder: Path) -> None:
    """Photographs of six people by three cameras."""
    random = np.random.default_rng(0)
    for person in range(6):
        colour = random.integers(40, 216, 3)
        for camera in ("entrance", "hall", "yard"):
            place = folder / camera / f"person {person}"
            place.mkdir(parents=True)
            for shot in range(3):
                pixels = colour + random.integers(-30, 30, (64, 32, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{shot}.png")


@pytest.mark.slow
def test_the_wheel_has_what_the_repository_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        found = {name: file.read(name) for name in file.namelist()}
    recipes = [path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yml")]
    renderer = [p.relative_to(ROOT) for p in (ROOT / "projects/Demo/demo_data").rglob("*.py")]
    shipped = {f"metabin_plugin/shipped/{path.as_posix()}": path for path in (*recipes, *renderer)}
    package = [
        path.relative_to(ROOT)
        for path in (ROOT / "metabin_plugin").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    expected = shipped | {path.as_posix(): path for path in package}
    assert {name for name in found if ".dist-info/" not in name} == expected.keys()
    assert all(found[name] == (ROOT / path).read_bytes() for name, path in expected.items())


@pytest.mark.slow
def test_photographs_become_a_network_that_finds_people(
    installed: Installed, tmp_path: Path
) -> None:
    draw(tmp_path / "photos")
    assert installed.home.is_relative_to(installed.scripts.parent)

    def metabin(*words: str) -> str:
        short = [word for pair in SHORT.items() for word in pair] if "--config" in words else []
        return installed.metabin(tmp_path, *words, *short)

    config = ("--config", "shop.yml")
    layout = ("--layout", "{camera}/{identity}/*")
    made = installed.metabin(
        tmp_path, "manifest", "photos", *layout, "--output", "shop.csv", *config
    )
    assert made.splitlines()[-1] == "next: metabin check --config-file shop.yml"
    # Not a path into the environment, which may be another one tomorrow.
    assert "_BASE_: MetaBIN-own.yml" in (tmp_path / "shop.yml").read_text().splitlines()
    assert "0 problem(s)" in metabin("check", *config)
    assert "mtest_loss_triplet" in metabin("train", *config)
    assert "| shop.csv" in metabin("eval", *config, *TRAINED)
    gallery = ("--gallery", "photos", "--output", "shop.index")
    assert "shop.index: 54 vectors" in metabin("index", *config, *gallery, *TRAINED)
    metabin("query", "shop.index", "photos/hall/person 2/1.png", "--top", "3")
    with (tmp_path / "found.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["path"].endswith("photos/hall/person 2/1.png") and len(rows) == 3
    assert "relative difference" in metabin("export", *config, "--output", "shop.onnx", *TRAINED)
    for name in ("found.png", "shop.onnx", "logs/shop/results.csv"):
        assert (tmp_path / name).stat().st_size > 0, name


@pytest.mark.slow
def test_a_recipe_is_trained_by_its_name(installed: Installed, tmp_path: Path) -> None:
    from tests.engine.tiny_data import tiny_options

    options = tiny_options(tmp_path)
    words = ["train", "--config", "MetaBIN-demo.yml", "--num-gpus", "2", *options]
    words += ["SOLVER.MAX_EPOCH", "1", "METABIN.ITERS_PER_EPOCH", "1", "TEST.EVAL_PERIOD", "1"]
    # Processes that are spawned get the plugin, and so do their loaders' workers.
    installed.run(tmp_path, *words, "DATALOADER.NUM_WORKERS", "1")
    assert (tmp_path / "out" / "results.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
def test_the_demo_draws_first_and_goes_on_after_ctrl_c(
    installed: Installed, tmp_path: Path
) -> None:
    command = [str(installed.scripts / "metabin"), "demo", "--seeds", "1"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=without("PYTHONPATH", "FASTREID_DATASETS"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not any((tmp_path / "datasets/demo").rglob("*.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    again = [str(installed.python), *command[:2], "--resume", *command[2:]]
    assert error.splitlines()[-1] == f"stopped; go on with: {' '.join(again)}"


@pytest.mark.slow
def test_the_demo_needs_no_repository(installed: Installed, tmp_path: Path) -> None:
    from tests.engine.tiny_data import tiny_options

    data = tmp_path / "tiny"
    data.mkdir()
    options = tiny_options(data)
    tiny = options[: options.index("OUTPUT_DIR")]
    demo = ("demo", "--output", "demo", "--seeds", "1")
    said = installed.metabin(tmp_path, *demo, *tiny, FASTREID_DATASETS=str(data))
    assert "=== MetaBIN, seed 1 (MetaBIN-demo.yml) ===" in said
    for name in ("results.md", "results.csv", "gates.png", "ranked.png", "found.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0, name


@pytest.mark.slow
def test_every_command_of_the_installed_program_has_its_help(
    installed: Installed, tmp_path: Path
) -> None:
    said = installed.run(tmp_path, "--help")
    # Behind a long name the line breaks.
    assert all(re.search(rf"^    {name}\s", said, re.MULTILINE) for name in COMMANDS)
