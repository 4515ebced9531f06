"""``metabin demo``: the other commands, one after the other, on drawn people."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tabulate import tabulate

from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.environment import available_cpus
from metabin_plugin.errors import STATUS_BASE, DatasetError, RunFolderError
from metabin_plugin.files import make_folder_of, reason, write_whole
from metabin_plugin.report.files import write_table
from metabin_plugin.repository import RECIPES, RENDERER
from metabin_plugin.run_folder import trace_of_run
from metabin_plugin.text import from_cell

METRICS = ("Rank-1", "Rank-5", "Rank-10", "mAP")
AVERAGE = "average"

# Metric by name, by target.
Results = dict[str, dict[str, float]]


# In a process of its own, so that a signal reaches a training as it would a user's.
METABIN = (sys.executable, "-m", "metabin_plugin.cli.main")
PRETRAINING = "pretraining-demo.yml"
CONFIGS = {"BN": "BN-demo.yml", "MetaBIN": "MetaBIN-demo.yml"}
DATA = "datasets/demo"
# Shorter than the configs say, which PaperTables runs as they are: the demo only has to work.
SHORT = ("METABIN.ITERS_PER_EPOCH", "5")
SHORT_PRETRAINING = ("SOLVER.MAX_EPOCH", "10", "SOLVER.STEPS", "[5, 8]", "TEST.EVAL_PERIOD", "0")
CAVEAT = (
    "Drawn people, short runs from random weights: the table shows that training and evaluation "
    "work, and says nothing about which method is better."
)
RANKED, SEARCHED = 6, 3  # queries on the figures
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def read_results(folder: Path) -> Results:
    """The last evaluation of a run.

    Args:
        folder: the run's ``OUTPUT_DIR``.

    Returns:
        For each target its metrics in percent.
    """
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def with_average(results: Results) -> Results:
    """The results with one more entry, the mean over the targets."""
    average = {m: statistics.fmean(r[m] for r in results.values()) for m in METRICS}
    return {**results, AVERAGE: average}


def results_table(runs: Mapping[str, Sequence[Results]]) -> str:
    """Markdown table of methods by target and metric, means over the runs of a method.

    Args:
        runs: for each method the results of its runs, all over the same targets.

    Returns:
        One row for each target and method, the average over the targets last, with the sample
        standard deviation over the runs where there are several.
    """
    averaged = {method: list(map(with_average, results)) for method, results in runs.items()}
    targets = next(iter(averaged.values()))[0]
    rows = [
        [target.removeprefix("DG_"), method, *_cells([run[target] for run in results])]
        for target in targets
        for method, results in averaged.items()
    ]
    numbers = ("right",) * len(METRICS)
    return tabulate(
        rows,
        headers=["Target", "Method", *METRICS],
        tablefmt="pipe",
        colalign=("left", "left", *numbers),
        disable_numparse=True,
    )


def write_csv(runs: Mapping[str, Mapping[int, Results]], path: Path) -> None:
    """Write the numbers behind :func:`results_table`.

    Args:
        runs: for each method and seed the results.
        path: the file.
    """
    write_table(path, ["method", "seed", "target", *METRICS], _lines(runs))


def _lines(runs: Mapping[str, Mapping[int, Results]]) -> Iterator[list[object]]:
    for method, seeds in runs.items():
        for seed, results in seeds.items():
            for target, values in with_average(results).items():
                yield [method, seed, target, *(values[m] for m in METRICS)]


def _cells(runs: Sequence[Mapping[str, float]]) -> list[str]:
    return [_cell([run[metric] for run in runs]) for metric in METRICS]


def _cell(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def run(options: Namespace) -> None:
    """Draw, train, evaluate, print the table and draw the figures."""
    with run_cli(f"go on with: {resuming_command()}"):
        check_output(options)
        if "FASTREID_DATASETS" not in os.environ:
            draw(DATA, seed=0)
            draw(options.pretraining_data, seed=1)
            os.environ["FASTREID_DATASETS"] = DATA
        compare(options)


def draw(folder: str, seed: int) -> None:
    """Draw the demo's people into a folder; one that has them already stays as it is.

    Raises:
        DatasetError: the folder holds something else.
    """
    sys.path.insert(0, str(RENDERER))
    from demo_data.generate import FolderError, generate

    try:
        generate(Path(folder), seed, 1.0, available_cpus(), partial(print, flush=True))
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be filled with the demo's people ({reason(error)}); run the demo "
            "where there is space to write, or set FASTREID_DATASETS to the data to take"
        ) from error
    except FolderError:
        raise DatasetError(
            f"{folder} holds something else than the demo's people; remove it, or set "
            "FASTREID_DATASETS to the data to take"
        ) from None


def compare(options: Namespace) -> None:
    """Train and evaluate both methods, and leave the table and the figures."""
    start = time.perf_counter()
    weights = {seed: pretrain(options, seed) for seed in options.seeds}
    runs = {
        method: {seed: train(options, method, seed, weights[seed]) for seed in options.seeds}
        for method in CONFIGS
    }

    table = results_table({method: list(seeds.values()) for method, seeds in runs.items()})
    content = f"{table}\n".encode()
    write_whole(options.output / "results.md", lambda file: file.write(content), RunFolderError)
    write_csv(runs, options.output / "results.csv")

    folder = run_folder(options.output, "MetaBIN", options.seeds[0])
    figures = draw_figures(folder, options.output, next(iter(runs["MetaBIN"][options.seeds[0]])))
    took = time.perf_counter() - start
    print(f"\nAll of it works ({took:.0f} s). Unseen targets, %:\n\n{table}\n\n{CAVEAT}\n")
    print(f"Table: {options.output / 'results.md'}, {options.output / 'results.csv'}")
    for figure in figures:
        print(f"Figure: {figure}")


def check_output(options: Namespace) -> None:
    """Refuse an output folder with runs in it, unless they are gone on with, before any is drawn.

    Raises:
        RunFolderError: it holds runs, or can be neither found nor made.
    """
    make_folder_of(options.output / "results.md", RunFolderError)
    methods = ("pretraining", *CONFIGS)
    runs = [run_folder(options.output, name, seed) for name in methods for seed in options.seeds]
    for folder in runs:
        if not options.resume and trace_of_run(str(folder)):
            raise RunFolderError(
                f"--output {options.output} holds a run already ({folder.name}); go on with it by "
                "--resume, give another --output, or remove the folder"
            )


def pretrain(options: Namespace, seed: int) -> Path:
    """Train the network that both methods start from with a seed; its weights."""
    folder = run_folder(options.output, "pretraining", seed)
    print(f"\n=== Pretraining, seed {seed} ({PRETRAINING}) ===", flush=True)
    pairs = ("METABIN.SEED", seed)
    data = {"FASTREID_DATASETS": options.pretraining_data}
    run_training(options, PRETRAINING, folder, *pairs, defaults=SHORT_PRETRAINING, **data)
    return folder / "model_final.pth"


def train(options: Namespace, method: str, seed: int, weights: Path) -> Results:
    """Train a method with a seed; its results."""
    folder = run_folder(options.output, method, seed)
    print(f"\n=== {method}, seed {seed} ({CONFIGS[method]}) ===", flush=True)
    start = ["MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", weights]
    run_training(options, CONFIGS[method], folder, *start, "METABIN.SEED", seed)
    return read_results(folder)


def run_folder(output: Path, method: str, seed: int) -> Path:
    """Where a run is."""
    return output / f"{method.lower()}-seed{seed}"


def run_training(
    options: Namespace,
    config: str,
    folder: Path,
    *pairs: object,
    defaults: Sequence[str] = (),
    **environment: str,
) -> None:
    """Run ``metabin train``; the user's KEY VALUE pairs do not overrule what makes the demo."""
    resume = ["--resume"] if options.resume else []
    words = ["--config-file", RECIPES / config, *resume, *SHORT, *defaults, *options.opts]
    run_command("train", *words, *pairs, "OUTPUT_DIR", folder, **environment)


def draw_figures(folder: Path, output: Path, target: str) -> list[Path]:
    """Of a trained network: gates per layer, ranked galleries, and the sheet of a search."""
    weights, gates, ranked = folder / "model_final.pth", output / "gates.png", output / "ranked.png"
    index, found = output / "gallery.index", output / "found.csv"
    network = ("--config-file", folder / "config.yaml")
    run_command("plot", "gates", weights, "--output", gates)
    run_command(
        *("ranked", *network, "--dataset", target, "--queries", RANKED),
        *("--output", ranked, "MODEL.WEIGHTS", weights),
    )
    run_command(
        *("index", *network, "--gallery", target, "--output", index, "MODEL.WEIGHTS", weights)
    )
    queries = first_queries(ranked.with_suffix(".csv"))
    run_command("query", index, *queries, "--output", found)
    return [gates, ranked, found.with_suffix(".png")]


def first_queries(table: Path) -> list[str]:
    """Paths of the first queries in the table of a figure of ranked galleries."""
    with table.open(encoding="utf-8", newline="") as file:
        queries = dict.fromkeys(row["query"] for row in csv.DictReader(file))
    return [from_cell(query) for query in queries][:SEARCHED]


def run_command(*words: object, **environment: str) -> None:
    """Run a command of ``metabin``; its failure, or a signal, ends the demo with its status."""
    command = subprocess.Popen([*METABIN, *map(str, words)], env={**os.environ, **environment})
    with leaving_signals_to(command):
        code = command.wait()
    # A process that a signal has ended has its negative number.
    status = code if code >= 0 else STATUS_BASE - code
    if status - STATUS_BASE in _SIGNALS:
        print(f"\nstopped; go on with: {resuming_command()}", file=sys.stderr)
    if status:
        sys.exit(status)


@contextmanager
def leaving_signals_to(command: subprocess.Popen[bytes]) -> Iterator[None]:
    """A block in which Ctrl-C and SIGTERM are the command's, which saves what it has."""

    def pass_on(number: int, _frame: object) -> None:
        # The terminal sends Ctrl-C to the command itself.
        if number == signal.SIGTERM:
            command.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def resuming_command() -> str:
    """The command that goes on, with the data's folder as ``make demo`` sets it."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    # The script tools/demo.py is this command alone.
    name, words = (words[:1], words[1:]) if words[:1] == ["demo"] else ([], words)
    command = shlex.join([sys.executable, sys.argv[0], *name, "--resume", *words])
    folder = os.environ.get("FASTREID_DATASETS")
    return f"FASTREID_DATASETS={shlex.quote(folder)} {command}" if folder else command
