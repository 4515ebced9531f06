"""Every command and Python block of every README is run, in small, or is the installation."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.readme_commands import (
    DOCUMENTS,
    PAGES,
    ROOT,
    Documented,
    anchors,
    blocks,
    commands,
    commands_of_make,
    joined_lines,
    links,
    run,
    workspace,
)
from tests.engine.tiny_data import tiny_options, write_manifest

Options = Callable[[Path], list[str]]


def tiny(folder: Path) -> list[str]:
    """KEY VALUE pairs that make any training one of seconds, and leave OUTPUT_DIR alone."""
    data = folder / "tiny"
    data.mkdir(exist_ok=True)
    options = tiny_options(data)
    return options[: options.index("OUTPUT_DIR")]


def tiny_but(*prefixes: str) -> Options:
    """Tiny without the keys that the command sets itself."""

    def options(folder: Path) -> list[str]:
        pairs = iter(tiny(folder))
        kept = [pair for pair in zip(pairs, pairs, strict=True) if not pair[0].startswith(prefixes)]
        return [word for pair in kept for word in pair]

    return options


def words(*given: str) -> Options:
    """Always the same words."""
    return lambda folder: list(given)


@dataclass(frozen=True)
class Run:
    """The command is run with further words behind it, and must end with status 0.

    Attributes:
        more: what makes it small.
        leaves: files and folders that it must have written, in the folder where it was run.
        is_slow: whether it trains, or needs a trained network.
    """

    more: Options
    leaves: tuple[str, ...] = ()
    is_slow: bool = True


@dataclass(frozen=True)
class Elsewhere:
    """The command needs more than tiny data; a test of its own runs what it runs.

    Attributes:
        test: file and name.
    """

    test: str


class Installation:
    """What continuous integration runs before all tests; its names are checked here."""


OWN_KEYS = ("DATASETS.", "METABIN.NUM_META_TRAIN", "SOLVER.IMS_PER_BATCH")
CUHK03 = "tests/tools/test_extract_cuhk03.py::test_images_are_pixel_exact"
CUHK_SYSU = "tests/tools/test_crop_cuhk_sysu.py::test_every_box_of_every_person"
TORCHRUN = "tests/distributed/test_launching.py::test_a_rank_that_torchrun_started_ends_it_too"
NEWCOMER = "tests/cli/test_newcomer.py::test_photographs_become_a_network_that_finds_people"
SEARCH_BENCH = "tests/search/test_search.py::test_the_bench_measures_every_kind"
GPU_BENCHMARK = "tests/projects/test_benchmark_gpu.py::test_every_part_measures_on_a_cpu"
THIS_TEST, OTHER_SEEDS = "test_a_command_does_what_the_readme_says", "logs/demo2"
METABIN, DIMN = "logs/metabin/model_final.pth", "logs/dimn/model_final.pth"
REAL_LAYOUT = (
    "tests/projects/test_realcrops_layout.py"
    "::test_a_manifest_names_every_image_with_its_person_and_camera"
)
REAL_FIGURES = (
    "tests/projects/test_realcrops_command.py"
    "::test_an_arm_is_trained_reported_trained_once_more_and_drawn"
)
WHEEL = "tests/cli/test_wheel.py"

# For each command the first entry whose pattern its text starts with. A new command of a README
# needs an entry here, unless one fits it.
TABLE: list[tuple[str, Run | Elsewhere | Installation]] = [
    (r"pip install |make |export \w+=", Installation()),
    (
        r"metabin (manifest|check|train|eval|index|query|export) .*shop\.",
        Elsewhere(f"{WHEEL}::test_photographs_become_a_network_that_finds_people"),
    ),
    (r"metabin index .*gallery\.index", Run(tiny, ("gallery.index",))),
    # The first that tiny data can tell from 0.
    (r"metabin threshold", Run(words("--false-match-rate", "0.1"), ("gallery.index",))),
    (r"metabin query gallery\.index", Run(words(), ("found.csv", "found.png"))),
    (r"metabin train", Elsewhere(f"{WHEEL}::test_a_recipe_is_trained_by_its_name")),
    (r"python tools/.*\bshop\.(csv|yml|index|onnx)", Elsewhere(NEWCOMER)),
    (r"torchrun .*tools/train_net\.py", Elsewhere(TORCHRUN)),
    (r"python tools/extract_cuhk03\.py", Elsewhere(CUHK03)),
    (r"python tools/crop_cuhk_sysu\.py", Elsewhere(CUHK_SYSU)),
    (r"python tools/train_net\.py .*--eval-only", Run(tiny, ("logs/metabin/results.csv",))),
    (r"python tools/train_net\.py .*north\.csv", Run(tiny_but(*OWN_KEYS), ("logs/demo/metabin",))),
    (
        r"python tools/train_net\.py .*random-inner-step\.yml",
        Run(tiny, ("logs/controls/random-inner-step/results.csv",)),
    ),
    (r"python tools/train_net\.py .*DualNorm\.yml", Run(tiny, ("logs/dualnorm/results.csv",))),
    (r"python projects/RealCrops/lay_out\.py", Elsewhere(REAL_LAYOUT)),
    # Arms are trained in tests/projects/test_realcrops_command.py.
    (
        r"python projects/RealCrops/run\.py",
        Run(words("--report"), ("logs/real-crops/cpu/cpu.csv",), is_slow=False),
    ),
    (r".*python tools/train_net\.py .*logs/real-crops", Elsewhere(REAL_FIGURES)),
    (r".*python tools/plot_gate\w+\.py .*logs/real-crops", Elsewhere(REAL_FIGURES)),
    (
        r".*python tools/train_net\.py .*/pretraining-demo\.yml",
        Run(tiny, ("logs/demo/pretraining",)),
    ),
    (r"python tools/train_net\.py .*MetaBIN\.yml", Run(tiny, (METABIN,))),
    (r"python -m metabin_plugin .*/train_net\.py", Run(tiny, ("logs/plain/model_final.pth",))),
    (r"python tools/convert_weights\.py .*--to authors", Run(words(), ("authors.pth",))),
    (r"python tools/convert_weights\.py", Run(words(), ("metabin.pth",))),
    (r"python tools/check_datasets\.py --config-file", Run(tiny, is_slow=False)),
    (r"python tools/check_datasets\.py --datasets", Run(words())),
    (r"python tools/export_onnx\.py", Run(tiny, ("model.onnx",))),
    (r"python tools/search\.py index .*site\.index", Run(tiny, ("site.index",))),
    (r"python tools/search\.py add site\.index", Run(words(), ("site.index",))),
    (r"python tools/search\.py index", Run(tiny, ("photos.index",))),
    (r"python tools/search\.py query .*--one-person", Run(words(), ("found.json", "found.png"))),
    (r"python tools/search\.py query", Run(words(), ("found.csv", "found.png"))),
    (r"python tools/search\.py (add|remove)", Run(words(), ("photos.index",))),
    (r"python tools/search\.py merge", Run(words(), ("both.index",))),
    (r"python tools/benchmark\.py search", Elsewhere(SEARCH_BENCH)),
    (r"python tools/benchmark\.py gpu", Elsewhere(GPU_BENCHMARK)),
    (r"python tools/visualize\.py", Run(tiny, ("ranked.png", "ranked.csv"))),
    (r"python tools/plot_gates\.py", Run(words(), ("gates.png", "gates.csv"))),
    (
        r"python tools/plot_gate_gradients\.py",
        Run(words("--batches", "1"), ("gate_gradients.png",)),
    ),
    (r"python tools/plot_embeddings\.py", Run(words(), ("embeddings.png",))),
    (r"python tools/plot_training\.py", Run(words(), ("training.png", "training.csv"))),
    (r"python tools/make_demo_data\.py", Run(words("--scale", "0.03"))),
    (
        r".*python tools/demo\.py --output",
        Run(
            tiny,
            tuple(f"{OTHER_SEEDS}/{name}" for name in ("results.md", "ranked.png", "found.png")),
        ),
    ),
    # What `make demo` runs is the same in another folder, with other seeds.
    (
        r"python tools/demo\.py --pretraining-data",
        Elsewhere(f"tests/cli/{Path(__file__).name}::{THIS_TEST}"),
    ),
    # The rows themselves are run in tests/projects/test_papertables_session.py.
    (
        r".*python projects/PaperTables/run\.py",
        Run(words("--report"), ("logs/tables/runs.csv",), is_slow=False),
    ),
    (r"python projects/DIMN/train_net\.py .*--eval-only", Run(tiny, ("logs/dimn/results.csv",))),
    (r"python projects/DIMN/train_net\.py", Run(tiny, (DIMN,))),
    (r"python projects/AugMining/train_net\.py", Run(tiny, ("logs/augmining/results.csv",))),
    (r"python projects/Examples/own_norm\.py", Run(tiny, ("logs/examples/norm/results.csv",))),
    (r"python projects/Examples/own_loss\.py", Run(tiny, ("logs/examples/loss/results.csv",))),
    (r"python projects/Examples/own_variant\.py", Run(tiny, ("logs/examples/variant",))),
]


def all_commands() -> list[Documented]:
    """Commands of all documents, each once, and what is behind ``make demo``."""
    found = [command for path in DOCUMENTS for command in commands(path)]
    found += commands_of_make("demo")
    return list({command.text: command for command in reversed(found)}.values())[::-1]


def entry(text: str) -> Run | Elsewhere | Installation | None:
    """What the table has for a command."""
    return next((how for pattern, how in TABLE if re.match(pattern, text)), None)


COMMANDS = all_commands()
TO_RUN = [
    pytest.param(command, how, marks=[pytest.mark.slow] if how.is_slow else [], id=command.text)
    for command in COMMANDS
    if isinstance(how := entry(command.text), Run)
]


_TRAIN = "python tools/train_net.py --config-file configs/MetaBIN.yml"
_JOINT = "MODEL.META_ARCHITECTURE Baseline METABIN.HOOKS ()"
# What commands presuppose, and what makes it.
MADE_BY: Mapping[str, str] = {
    METABIN: _TRAIN,
    "logs/bin/model_final.pth": f"{_TRAIN} {_JOINT} OUTPUT_DIR logs/bin",
    "logs/bn/model_final.pth": f"{_TRAIN} {_JOINT} MODEL.BACKBONE.NORM BN OUTPUT_DIR logs/bn",
    DIMN: "python projects/DIMN/train_net.py --config-file projects/DIMN/configs/DIMN.yml",
    "photos.index": "python tools/search.py index --config-file configs/MetaBIN.yml "
    f"--gallery photos --output photos.index MODEL.WEIGHTS {METABIN}",
    **{
        f"{name}.index": "python tools/search.py index --config-file configs/MetaBIN.yml "
        f"--gallery {name} --output {name}.index MODEL.WEIGHTS {METABIN}"
        for name in ("north", "south")
    },
    "gallery.index": "metabin index --config-file configs/MetaBIN.yml --gallery photos "
    f"--output gallery.index MODEL.WEIGHTS {METABIN}",
    "site.index": "python tools/search.py index --by-camera --config-file configs/MetaBIN.yml "
    f"--gallery site.csv --output site.index MODEL.WEIGHTS {METABIN}",
    "authors.pth": f"python tools/convert_weights.py {METABIN} authors.pth --to authors",
    "datasets/demo": "python tools/make_demo_data.py --output datasets/demo",
}


class Supplies:
    """Files that commands expect of earlier commands, of the reader or of the internet.

    Args:
        folder: where commands are run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._in_the_making = ""

    def supply(self, words: tuple[str, ...]) -> None:
        """Make what a command names and what is not there yet."""
        for word in words:
            if word in ("logs/bn", "logs/metabin"):
                word += "/model_final.pth"
            name = "datasets/demo" if word.startswith("DG_") else word
            if (self.folder / name).exists() or name == self._in_the_making:
                continue
            if name in MADE_BY:
                self._make(name)
            elif name in ("more", "north", "south", "person/"):
                self._photograph(self.folder / name)
            elif name == "calibration.csv":
                write_manifest(self.folder, "calibration", seed=8, subset="test")
            elif name == "site.csv":
                site = write_manifest(self.folder, "site", seed=9, subset="test")
                text = re.sub(r",0,(?=gallery|query)", ",gate,", site.read_text("utf-8"))
                site.write_text(text.replace(",1,gallery", ",yard,gallery"), "utf-8")
            elif name in ("photos", "person.jpg"):
                self._photograph(self.folder / "photos")
                shutil.copy(self.folder / "photos" / "0_0.png", self.folder / "person.jpg")
            elif name == "logs/metabin/model_0009.pth":
                self.supply((METABIN,))
                shutil.copy(self.folder / "logs/metabin/model_0000.pth", self.folder / name)
            elif name.endswith("fast-reid/tools/train_net.py"):
                (self.folder / name).parent.mkdir(parents=True)
                shutil.copy(Path(__file__).with_name("plain_script.py"), self.folder / name)
            elif "north.csv" in name or "west.csv" in name:
                for seed, manifest in enumerate(re.findall(r"(\w+)\.csv", name)):
                    subset = "test" if manifest == "west" else "train"
                    write_manifest(self.folder, manifest, seed, subset=subset)

    def _photograph(self, photos: Path) -> None:
        if not photos.is_dir():
            write_manifest(self.folder, photos.name, seed=7)

    def _make(self, name: str) -> None:
        outer, self._in_the_making = self._in_the_making, name
        try:
            self.run(tuple(MADE_BY[name].split(" ")))
        finally:
            self._in_the_making = outer

    def run(self, command: tuple[str, ...], settings: tuple[str, ...] = ()) -> None:
        """Supply and run a command as its entry in the table says."""
        how = entry(" ".join(" ".join((*settings, *command)).split()))
        assert isinstance(how, Run), command
        self.supply(command)
        datasets = {"FASTREID_DATASETS": str(self.folder / "datasets" / "demo")}
        run((*command, *how.more(self.folder)), self.folder, datasets)


@pytest.fixture(scope="module")
def supplies(tmp_path_factory: pytest.TempPathFactory) -> Supplies:
    """A folder like the repository's, in which the commands are run one after the other."""
    return Supplies(workspace(tmp_path_factory.mktemp("reader")))


@pytest.mark.parametrize(("command", "how"), TO_RUN)
def test_a_command_does_what_the_readme_says(
    supplies: Supplies, command: Documented, how: Run
) -> None:
    written = [supplies.folder / name for name in how.leaves]
    before = {path: path.stat().st_mtime_ns for path in written if path.exists()}
    for path in written:
        # Another command may have needed what this one makes; a run begins in a folder of its own.
        if path.name == "model_final.pth" and path.exists():
            shutil.rmtree(path.parent)
    supplies.run(command.words, command.settings)
    for path in written:
        assert path.exists(), f"{command.text} left no {path.name}"
        assert path.is_dir() or path.stat().st_mtime_ns != before.get(path), path


def test_every_command_has_an_entry() -> None:
    without = [f"{c.document}: {c.text}" for c in COMMANDS if entry(c.text) is None]
    assert not without, f"add to TABLE of {Path(__file__).name}: {without}"
    assert len(COMMANDS) > 20


def test_every_entry_has_a_command() -> None:
    used = [entry(text) for text in (*MADE_BY.values(), *(c.text for c in COMMANDS))]
    unused = [pattern for pattern, how in TABLE if all(how is not other for other in used)]
    assert not unused


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        if name.startswith(("https://", "http://")):
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_tests_that_run_a_command_elsewhere_are_there() -> None:
    for _, how in TABLE:
        if isinstance(how, Elsewhere):
            file, name = how.test.split("::")
            assert f"def {name}(" in (ROOT / file).read_text("utf-8")


def test_what_is_installed_can_be() -> None:
    project, makefile = (
        (ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "Makefile")
    )
    for command in COMMANDS:
        if not isinstance(entry(command.text), Installation):
            continue
        for extra in re.findall(r"\.\[([\w,-]+)\]", command.text):
            assert all(f"\n{name} = [" in project for name in extra.split(",")), command.text
        for pinned in re.findall(r"\S+==\S+", command.text):
            assert f"{pinned}\n" in makefile, command.text
        if command.words[0] == "make":
            dry = ["make", "--dry-run", *command.words[1:]]
            assert subprocess.run(dry, cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(c, id=f"{p.parent.name}-{i}")
        for p in DOCUMENTS
        for i, c in enumerate(blocks(p, "python"))
    ],
)
def test_a_python_block_runs(supplies: Supplies, code: str) -> None:
    (supplies.folder / "block.py").write_text(code, "utf-8")
    run(("python", "block.py"), supplies.folder, {})


def test_commands_are_found_wherever_their_lines_break() -> None:
    block = 'a b \\\n  c   # why\n\nX=1 d \'("e",\n  "f")\' g\n# alone\n'
    found = [words for words in joined_lines(block) if words]
    assert found == [["a", "b", "c"], ["X=1", "d", '("e",\n  "f")', "g"]]
