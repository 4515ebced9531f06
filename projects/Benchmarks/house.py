"""The table of the house: how many modules there are, and how many of them a call goes through.

python projects/Benchmarks/house.py [--json FILE] [--files] [--no-trace] [--root FOLDER]

The first part reads the code of metabin_plugin, tools and projects. The second part trains a small
network on small drawn images, on a CPU. It counts the files of metabin_plugin in which a function
is entered, and the pairs (file of the caller, file of the callee), by

- one iteration: base step, meta step, hooks, the next batch;
- one evaluation, as --eval-only does it: config, network, weights, scores, results;
- one call of the trainer's test, which is a part of that.

A call that passes through other libraries counts as one of the last file of metabin_plugin before
them. What runs because a module is imported does not count.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import logging
import os
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "metabin_plugin"
# Parts of the house, and how many folders above a file Python does not count into its name: the
# folder of a script is on the path, and each project has scripts of its own.
PARTS = {PACKAGE: 0, "tools": 1, "projects": 2}
RECIPE = "configs/MetaBIN.yml"
# What is done once, in the first iterations, is no part of the one that is traced.
WARM_UP = 2
WIDTH = 48

Table = dict[str, Any]


@dataclass
class Module:
    """A file of the house.

    Attributes:
        name: dotted, as others import it.
        home: folder in which its own imports are looked up first.
        is_package: whether it is an ``__init__.py``.
        lines: number of its lines.
        at_import: files of the house that are imported together with it.
        in_functions: those that only its functions import, when they are called.
    """

    name: str
    home: str
    is_package: bool
    lines: int
    at_import: set[str] = field(default_factory=set)
    in_functions: set[str] = field(default_factory=set)


def read_house(root: Path) -> dict[str, Module]:
    """Modules by the path of their file, with what their import statements name.

    Args:
        root: folder of the repository.
    """
    house, trees = {}, {}
    for part, depth in PARTS.items():
        for file in sorted((root / part).rglob("*.py")):
            text, path = file.read_text(encoding="utf-8"), file.relative_to(root).as_posix()
            folders, is_package = path.split("/")[:-1], file.stem == "__init__"
            name = ".".join([*folders[depth:], *([] if is_package else [file.stem])])
            trees[path] = ast.parse(text)
            house[path] = Module(name, "/".join(folders[:depth]), is_package, text.count("\n"))
    files: dict[str, dict[str, str]] = defaultdict(dict)
    for path, module in house.items():
        files[module.name][module.home] = path
    for path, module in house.items():
        for names_of_one, in_function in _imported(trees[path], module):
            homes = next((files[name] for name in names_of_one if name in files), {})
            target = homes.get(module.home) or next(iter(homes.values()), path)
            if target != path:
                (module.in_functions if in_function else module.at_import).add(target)
        module.in_functions -= module.at_import
    return house


def _imported(
    node: ast.AST, module: Module, in_function: bool = False
) -> Iterator[tuple[list[str], bool]]:
    """Names that each import may mean, the likeliest first, and whether it is in a function.

    Imports for a type checker alone are left out.
    """
    if isinstance(node, ast.Import):
        yield from (([alias.name], in_function) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = module.name.split(".") if node.level else []
        above = above[: len(above) + module.is_package - node.level] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        # A name is a submodule where there is one, and else something inside the module.
        yield from (([f"{source}.{alias.name}", source], in_function) for alias in node.names)
    else:
        in_function |= isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        children: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            children = node.orelse
        for child in children:
            yield from _imported(child, module, in_function)


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules of which each imports every other, directly or through others.

    Args:
        imports: for each module those that it imports.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = sorted(imports)
    place = {name: number for number, name in enumerate(names)}
    edges = [(place[a], place[b]) for a in names for b in imports[a]]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = coo_array(([1] * len(edges), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(graph, connection="strong")
    groups = defaultdict(list)
    for name, label in zip(names, labels.tolist(), strict=True):
        groups[label].append(name)
    return [group for group in groups.values() if len(group) > 1]


def table_of_code(root: Path) -> Table:
    """What the code says by itself, without being run.

    Args:
        root: folder of the repository.
    """
    house = read_house(root)
    all_imports = {path: m.at_import | m.in_functions for path, m in house.items()}
    importers = Counter(target for targets in all_imports.values() for target in targets)

    def by_part(numbers: dict[str, int]) -> dict[str, int]:
        counts = dict.fromkeys(PARTS, 0)
        for path, number in numbers.items():
            counts[path.split("/")[0]] += number
        return {**counts, "all": sum(counts.values())}

    return {
        "modules": by_part(dict.fromkeys(house, 1)),
        "lines": by_part({path: m.lines for path, m in house.items()}),
        "modules with exactly one importer": by_part(
            {path: int(importers[path] == 1) for path in house}
        ),
        "imports at import time": by_part({path: len(m.at_import) for path, m in house.items()}),
        "imports inside functions alone": by_part(
            {path: len(m.in_functions) for path, m in house.items()}
        ),
        "circles": circles({path: m.at_import for path, m in house.items()}),
        "circles with imports inside functions": circles(all_imports),
        "imported once": [path for path in house if importers[path] == 1],
    }


class Trace:
    """Files of a package in which functions are entered, and who called them.

    Args:
        package: its folder.

    Attributes:
        active: whether calls count now.
    """

    def __init__(self, package: Path) -> None:
        self.active = False
        self._folder = f"{package}{os.sep}"
        self._files: set[str] = set()
        self._edges: set[tuple[str, str]] = set()

    @contextmanager
    def watching(self, active: bool) -> Iterator[None]:
        """Watch this thread in the block, and the threads that it starts.

        Args:
            active: whether calls count from the start.
        """
        self.active = active
        threading.setprofile(self._see)
        sys.setprofile(self._see)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]  # None ends it
            self.active = False

    def table(self) -> Table:
        """Numbers of files and edges, and for each file those that it calls."""
        files = {
            file: sorted(callee for caller, callee in self._edges if caller == file)
            for file in sorted(self._files | {caller for caller, _ in self._edges})
        }
        return {"files": len(self._files), "edges": len(self._edges), "calls": files}

    def _see(self, frame: FrameType, event: str, _: object) -> None:
        # Neither the body of a module nor that of a class is a function.
        if not self.active or event != "call" or not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            return
        callee = self._file(frame)
        if callee is None:
            return
        caller, above = None, frame.f_back
        while above is not None:
            file = self._file(above)
            if file and above.f_code.co_name == "<module>":
                return
            caller, above = caller or file, above.f_back
        self._files.add(callee)
        if caller and caller != callee:
            self._edges.add((caller, callee))

    def _file(self, frame: FrameType) -> str | None:
        name = frame.f_code.co_filename
        return name[len(self._folder) :] if name.startswith(self._folder) else None


def traced_table(root: Path) -> Table:
    """Tables of one iteration, one evaluation and one call of the trainer's test.

    Args:
        root: folder of the repository.

    Raises:
        SystemExit: the package that is imported is another than that in ``root``.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(root))
    import metabin_plugin

    package = Path(metabin_plugin.__file__).resolve().parent
    if package != root / PACKAGE:
        sys.exit(f"error: --root {str(root)!r} – {PACKAGE} comes from {str(package)!r}")
    metabin_plugin.register()

    import torch
    from fastreid.engine import default_argument_parser
    from fastreid.engine.train_loop import HookBase

    from metabin_plugin.engine import MetaBINTrainer, read_config, train_or_evaluate

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    iteration, evaluation, test = (Trace(package) for _ in range(3))

    class Window(HookBase):
        """Opens at the start of one iteration, and closes at the start of the next."""

        def before_step(self) -> None:
            iteration.active = self.trainer.iter == WARM_UP

    with tempfile.TemporaryDirectory() as folder:
        recipe, options = str(root / RECIPE), small_options(Path(folder))
        cfg = read_config(recipe, options)
        with iteration.watching(active=False):
            trainer = MetaBINTrainer(cfg)
            trainer.register_hooks([Window()])
            trainer.train()
        with test.watching(active=True):
            MetaBINTrainer.test(cfg, trainer.model)
        options += ["MODEL.WEIGHTS", os.path.join(folder, "model_final.pth")]
        line = ["--eval-only", "--config-file", recipe, *options]
        arguments = default_argument_parser().parse_args(line)
        with evaluation.watching(active=True):
            train_or_evaluate(arguments)
    traces = {"iteration": iteration, "evaluation": evaluation, "call of test": test}
    return {name: trace.table() for name, trace in traces.items()}


def small_options(folder: Path) -> list[str]:
    """Keys and values that make of the paper's recipe a small network on small images.

    Args:
        folder: where the images and the run's output are put.
    """
    sources = [draw_images(folder, f"source{number}", number) for number in range(3)]
    settings = {
        "DATASETS.NAMES": tuple(sources),
        "DATASETS.TESTS": (draw_images(folder, "target", 3, ("query", "gallery")),),
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.DEPTH": "18x",
        "MODEL.BACKBONE.FEAT_DIM": 512,
        "MODEL.BACKBONE.PRETRAIN": False,
        "METABIN.NUM_META_TRAIN": 2,
        "METABIN.ITERS_PER_EPOCH": WARM_UP + 2,
        "METABIN.SEED": 1,
        "DATALOADER.NUM_INSTANCE": 2,
        # Reading images is part of an iteration; in a process of its own it would not be seen.
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.SIZE_TRAIN": [32, 16],
        "INPUT.SIZE_TEST": [32, 16],
        "SOLVER.AMP.ENABLED": False,
        "SOLVER.IMS_PER_BATCH": 12,
        "SOLVER.MAX_EPOCH": 1,
        "SOLVER.STEPS": [1],
        "SOLVER.WARMUP_ITERS": 1,
        "TEST.EVAL_PERIOD": 0,
        "TEST.IMS_PER_BATCH": 8,
        "OUTPUT_DIR": folder,
    }
    return [word for key, value in settings.items() for word in (key, str(value))]


def draw_images(folder: Path, name: str, seed: int, subsets: tuple[str, ...] = ("train",)) -> str:
    """The manifest of four identities, each a colour under noise, as two cameras see them.

    Args:
        folder: where the images are put.
        name: of the manifest and of its images' folder.
        seed: of colours and noise.
        subsets: of the cameras in turn.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    rows = ["path,pid,camid,subset"]
    (folder / name).mkdir()
    for identity, colour in enumerate(rng.integers(40, 216, (4, 3))):
        for number, noise in enumerate(rng.integers(-40, 40, (4, 32, 16, 3))):
            path, camera = f"{name}/{identity}_{number}.png", number % 2
            Image.fromarray((colour + noise).astype(np.uint8)).save(folder / path)
            rows.append(f"{path},{identity},{camera},{subsets[camera % len(subsets)]}")
    manifest = folder / f"{name}.csv"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(manifest)


def as_text(table: Table, files: bool) -> Iterator[str]:
    """The lines of the table.

    Args:
        table: the whole of it.
        files: whether the modules and files that are counted are listed.
    """
    yield " " * WIDTH + "".join(f"{part:>15}" for part in (*PARTS, "all"))
    for title, row in table.items():
        if isinstance(row, dict) and "all" in row:
            yield f"{title:{WIDTH}}" + "".join(f"{number:15,}" for number in row.values())
        elif title.startswith("circles"):
            yield f"{title:{WIDTH}}{len(row):60,}"
            yield from (f"    {' '.join(circle)}" for circle in row)
    traced = table.get("traced", {})
    for name, trace in traced.items():
        for what in ("files", "edges"):
            yield f"{f'{what} of one {name}':{WIDTH}}{trace[what]:15,}"
    if files:
        yield "\nmodules with exactly one importer"
        yield from (f"    {path}" for path in table["imported once"])
        for name, trace in traced.items():
            yield f"\nfiles of one {name}, and those that they call"
            for file, callees in trace["calls"].items():
                yield f"    {file}" + (f" -> {' '.join(callees)}" if callees else "")


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--files", action="store_true", help="list what is counted")
    parser.add_argument("--no-trace", action="store_true", help="only read the code")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the repository")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    table = table_of_code(root)
    if not arguments.no_trace:
        table["traced"] = traced_table(root)
    print("\n".join(as_text(table, arguments.files)))
    if arguments.json:
        text = json.dumps(table, indent=1, ensure_ascii=False)
        arguments.json.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
