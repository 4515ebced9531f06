"""Whole files of each kind, and the commands that they are given to."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from metabin_plugin.engine import read_config
from tests.distributed import small_backbone
from tests.engine.tiny_data import CONFIGS, tiny_options, write_manifest
from tests.mutations.warm_process import ERR, EVENTS, OUT, PLACES, Command, WarmProcess

KINDS = ("checkpoint", "index", "index_by_camera", "manifest", "config", "jpeg")
# Two epochs of one iteration; a resumed run has the second before it.
EPOCHS = 2
_SHORT = {
    "SOLVER.MAX_EPOCH": EPOCHS,
    "METABIN.ITERS_PER_EPOCH": 1,
    "METABIN.FIRST_BASE_UPDATES": 1,
    "SOLVER.CHECKPOINT_KEEP": 1,
    "TEST.EVAL_PERIOD": 1,
}
# A long training that a config asks for is no hang, and weights are not looked for elsewhere.
_BOUNDED = {**_SHORT, "MODEL.BACKBONE.PRETRAIN": False, "MODEL.DEVICE": "cpu"}


@dataclass(frozen=True)
class Given:
    """Small data, a run that has stopped in its middle, and an index.

    Attributes:
        root: folder of all that is below.
        data: what the commands may read: images, manifests, ``config.yml``, the run ``out``,
            ``gallery.index``, ``site.index`` (by camera, with a threshold), ``photo.jpg``.
        outside: what no command may touch.
    """

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def original(self, kind: str) -> Path:
        """The file of a kind that is mutated."""
        names = {
            "checkpoint": f"out/{(self.data / 'out' / 'last_checkpoint').read_text()}",
            "index": "gallery.index",
            "index_by_camera": "site.index",
            "manifest": "source0.csv",
            "config": "config.yml",
            "jpeg": "photo.jpg",
        }
        return self.data / names[kind]

    def command(self, kind: str, number: int, folder: Path) -> tuple[Path, Command]:
        """Where a mutated file belongs, and the command that is given it.

        Args:
            kind: one of ``KINDS``.
            number: of the mutation; some kinds are given to several tools in turn.
            folder: the command's own, made here.
        """
        folder.mkdir()
        return getattr(self, f"_{kind}")(number, folder)

    def restore_outside(self) -> None:
        """Make what is outside anew, after something has touched it."""
        shutil.rmtree(self.outside)
        _fill_outside(self.outside)

    def _checkpoint(self, number: int, folder: Path) -> tuple[Path, Command]:
        shutil.copytree(self.data / "out", folder / "out")
        line = self._train(folder, "--resume")
        return folder / "out" / self.original("checkpoint").name, self._of(folder, line)

    def _index(self, number: int, folder: Path) -> tuple[Path, Command]:
        path = folder / "gallery.index"
        query = str(self.data / "target" / "0_0.png")
        line = ["tools/search.py", "query", str(path), query, "--output", str(folder / "found.csv")]
        return path, self._of(folder, line)

    def _index_by_camera(self, number: int, folder: Path) -> tuple[Path, Command]:
        path, line = self._index(number, folder)
        line.line.extend(["--camera", "0"])
        if number % 3 == 1:
            line = self._of(folder, ["tools/search.py", "remove", str(path), "0_1.png"])
        elif number % 3 == 2:
            merge = ["tools/search.py", "merge", str(path), str(self.data / "more.index")]
            line = self._of(folder, [*merge, "--output", str(path)])
        return path, line

    def _manifest(self, number: int, folder: Path) -> tuple[Path, Command]:
        path = folder / "source0.csv"
        shutil.copytree(self.data / "source0", folder / "source0")
        return path, self._of(folder, self._check_or_train(number, folder, path))

    def _config(self, number: int, folder: Path) -> tuple[Path, Command]:
        path = folder / "config.yml"
        line = self._train(folder, config=path, options=_BOUNDED)
        if number % 4 == 0:
            line = ["tools/check_datasets.py", "--workers", "0", "--config-file", str(path)]
        return path, self._of(folder, line)

    def _jpeg(self, number: int, folder: Path) -> tuple[Path, Command]:
        path = folder / "photo.jpg"
        manifest = folder / "source0.csv"
        shutil.copytree(self.data / "source0", folder / "source0")
        rows = (self.data / "source0.csv").read_text().splitlines()
        first = rows[1].split(",")
        rows[1] = ",".join(["photo.jpg", *first[1:]])
        manifest.write_text("\n".join(rows) + "\n")
        line = self._check_or_train(number // 2, folder, manifest)
        if number % 2:
            index, output = str(self.data / "gallery.index"), str(folder / "found.csv")
            line = ["tools/search.py", "query", index, str(path), "--output", output]
        return path, self._of(folder, line)

    def _check_or_train(self, number: int, folder: Path, manifest: Path) -> list[str]:
        if number % 2:
            return ["tools/check_datasets.py", "--workers", "0", "--datasets", str(manifest)]
        names = [str(manifest), *(str(self.data / f"source{n}.csv") for n in (1, 2))]
        return self._train(folder, options={"DATASETS.NAMES": ",".join(names)})

    def _train(
        self,
        folder: Path,
        *flags: str,
        config: Path | None = None,
        options: dict[str, object] | None = None,
    ) -> list[str]:
        config = config or self.data / "config.yml"
        changes = {**(options or {}), "OUTPUT_DIR": folder / "out"}
        pairs = [str(part) for pair in changes.items() for part in pair]
        return ["tools/train_net.py", "--config-file", str(config), *flags, *pairs]

    def _of(self, folder: Path, line: list[str]) -> Command:
        return Command(line, str(folder), [str(self.data)])


def make_given(root: Path, process: WarmProcess) -> Given:
    """Draw the data, train half a run and index its target.

    Args:
        root: an empty folder.
        process: runs the tools that make it, and knows then what they import.
    """
    given = Given(root)
    given.data.mkdir()
    _fill_outside(given.outside)
    options = [*tiny_options(given.data), *small_backbone.OPTIONS]
    for number in range(3):
        write_manifest(given.data, f"source{number}", number, identities=2, images=2)
    write_manifest(given.data, "target", 99, identities=2, images=3, subset="test")
    short = [str(part) for pair in _SHORT.items() for part in pair]
    cfg = read_config(str(CONFIGS / "MetaBIN.yml"), [*options, *short])
    (given.data / "config.yml").write_text(yaml.safe_dump(_plain(cfg)))
    with Image.open(given.data / "source0" / "0_0.png") as image:
        image.save(given.data / "photo.jpg", quality=90)
    _make(given, process, given._train(given.data))
    _keep_first_epoch(given)
    line = ["tools/search.py", "index", "--config-file", str(given.data / "config.yml")]
    line += ["--gallery", str(given.data / "target"), "--output", str(given.data / "gallery.index")]
    weights = ["MODEL.WEIGHTS", str(given.original("checkpoint"))]
    _make(given, process, [*line, *weights])
    line = ["tools/search.py", "index", "--config-file", str(given.data / "config.yml")]
    for name in ("site.index", "more.index"):
        gallery = ["--by-camera", "--gallery", str(given.data / "target.csv")]
        _make(given, process, [*line, *gallery, "--output", str(given.data / name), *weights])
    line = ["tools/search.py", "threshold", "--index", str(given.data / "site.index")]
    line += ["--dataset", str(given.data / "target.csv"), "--false-match-rate", "0.5"]
    _make(given, process, [*line, "--resamplings", "5"])
    # Each other tool once, on whole files.
    for kind, number in (
        ("index", 0),
        *(("index_by_camera", n) for n in range(3)),
        ("manifest", 1),
    ):
        path, command = given.command(kind, number, given.root / kind)
        shutil.copy(given.original(kind), path)
        _make(given, process, command.line)
        shutil.rmtree(given.root / kind)
    for name in (OUT, ERR, EVENTS, PLACES):
        (given.root / name).unlink(missing_ok=True)
    return given


def _plain(cfg: object) -> object:
    if isinstance(cfg, dict):
        return {key: _plain(value) for key, value in cfg.items()}
    return list(cfg) if isinstance(cfg, tuple) else cfg


def _make(given: Given, process: WarmProcess, line: list[str]) -> None:
    outcome = process.run(Command(line, str(given.root), [], learn=True))
    if outcome.status or outcome.events:
        raise RuntimeError(f"{line} ended with {outcome.status}: {outcome.err} {outcome.events}")


def _keep_first_epoch(given: Given) -> None:
    """Take the run back to where it was after its first epoch."""
    out = given.data / "out"
    for name in ("model_final.pth", "results.json", "results.csv"):
        (out / name).unlink()
    (out / "last_checkpoint").write_text("model_0000.pth")


def _fill_outside(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("of somebody else\n")
    Image.new("RGB", (16, 32), "blue").save(folder / "photo.jpg")
    for name in ("model.pth", "found.csv", "config.yaml"):
        (folder / name).write_text("MODEL: {DEVICE: cpu}\n")
