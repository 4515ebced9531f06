"""The demo: train a BN baseline and MetaBIN on the drawn data, compare them on unseen targets.

python tools/demo.py [--output logs/demo] [--seeds 1,2,3] [--resume] [KEY VALUE ...]

All runs go through tools/train_net.py, with FASTREID_DATASETS pointing at the data of
tools/make_demo_data.py. The first trains what stands in for ImageNet weights, on people drawn with
another seed; the others start from it. The table, its numbers and three figures are left in the
output folder. Ctrl-C saves the run at hand; --resume goes on there.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from metabin_plugin.cli.outcome import STATUS_BASE
from metabin_plugin.errors import RunFolderError
from metabin_plugin.report.results import Results, read_results, results_table, write_csv
from metabin_plugin.run_folder import trace_of_run
from metabin_plugin.text import from_cell


def numbers(text: str) -> list[int]:
    """Whole numbers between commas.

    Raises:
        ValueError: something else is between them.
    """
    return [int(number) for number in text.split(",")]


ROOT = Path(__file__).resolve().parents[2]
PRETRAINING = "configs/pretraining-demo.yml"
CONFIGS = {"BN": "configs/BN-demo.yml", "MetaBIN": "configs/MetaBIN-demo.yml"}
PRETRAINED = "pretraining"  # folder of the first run
RANKED, SEARCHED = 6, 3  # queries on the figures
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Train, evaluate, print the table and draw the figures."""
    args = parse()
    check_output(args)
    start = time.perf_counter()
    weights = pretrain(args)
    runs = {
        method: {seed: train(args, method, seed, weights) for seed in args.seeds}
        for method in CONFIGS
    }

    table = results_table({method: list(seeds.values()) for method, seeds in runs.items()})
    (args.output / "results.md").write_text(table + "\n", encoding="utf-8")
    write_csv(runs, args.output / "results.csv")

    folder = run_folder(args.output, "MetaBIN", args.seeds[0])
    figures = draw_figures(folder, args.output, next(iter(runs["MetaBIN"][args.seeds[0]])))
    print(f"\nUnseen targets, % ({time.perf_counter() - start:.0f} s):\n\n{table}\n")
    print(f"Table: {args.output / 'results.md'}, {args.output / 'results.csv'}")
    for figure in figures:
        print(f"Figure: {figure}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("logs/demo"))
    parser.add_argument("--seeds", type=numbers, default=[1, 2, 3], help="runs of a method: 1,2,3")
    parser.add_argument(
        "--pretraining-data",
        default="datasets/demo-pretraining",
        help="FASTREID_DATASETS of the first run",
    )
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for all runs")
    return parser.parse_args()


def check_output(args: argparse.Namespace) -> None:
    """Refuse an output folder with runs in it, unless they are gone on with."""
    runs = [run_folder(args.output, method, seed) for method in CONFIGS for seed in args.seeds]
    for folder in (args.output / PRETRAINED, *runs):
        if not args.resume and trace_of_run(str(folder)):
            raise RunFolderError(
                f"--output {args.output} holds a run already ({folder.name}); go on with it by "
                "--resume, give another --output, or remove the folder"
            )


def pretrain(args: argparse.Namespace) -> Path:
    """Train the network that all runs start from; its weights."""
    folder = args.output / PRETRAINED
    print(f"\n=== Pretraining ({PRETRAINING}) ===", flush=True)
    train_net(args, PRETRAINING, folder, [], FASTREID_DATASETS=args.pretraining_data)
    return folder / "model_final.pth"


def train(args: argparse.Namespace, method: str, seed: int, weights: Path) -> Results:
    """Train a method with a seed; its results."""
    folder = run_folder(args.output, method, seed)
    print(f"\n=== {method}, seed {seed} ({CONFIGS[method]}) ===", flush=True)
    start = ["MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", weights]
    train_net(args, CONFIGS[method], folder, [*start, "METABIN.SEED", seed])
    return read_results(folder)


def run_folder(output: Path, method: str, seed: int) -> Path:
    """Where a run is."""
    return output / f"{method.lower()}-seed{seed}"


def train_net(
    args: argparse.Namespace,
    config: str,
    folder: Path,
    options: Sequence[object],
    **environment: str,
) -> None:
    """Run tools/train_net.py; the user's KEY VALUE pairs do not overrule what makes the demo."""
    resume = ["--resume"] if args.resume else []
    arguments = ["--config-file", config, *resume, *args.opts, *options, "OUTPUT_DIR", folder]
    run_tool("train_net.py", *arguments, **environment)


def draw_figures(folder: Path, output: Path, target: str) -> list[Path]:
    """Of a trained network: gates per layer, ranked galleries, and the sheet of a search."""
    weights, gates, ranked = folder / "model_final.pth", output / "gates.png", output / "ranked.png"
    index, found = output / "gallery.index", output / "found.csv"
    network = ("--config-file", folder / "config.yaml")
    run_tool("plot_gates.py", weights, "--output", gates)
    run_tool(
        *("visualize.py", *network, "--dataset", target, "--queries", RANKED),
        *("--output", ranked, "MODEL.WEIGHTS", weights),
    )
    run_tool(
        *("search.py", "index", *network, "--gallery", target),
        *("--output", index, "MODEL.WEIGHTS", weights),
    )
    run_tool(
        "search.py", "query", index, *first_queries(ranked.with_suffix(".csv")), "--output", found
    )
    return [gates, ranked, found.with_suffix(".png")]


def first_queries(table: Path) -> list[str]:
    """Paths of the first queries in the table of a figure of ranked galleries."""
    with table.open(encoding="utf-8", newline="") as file:
        queries = dict.fromkeys(row["query"] for row in csv.DictReader(file))
    return [from_cell(query) for query in queries][:SEARCHED]


def run_tool(script: str, *arguments: object, **environment: str) -> None:
    """Run a script beside this one; its failure, or a signal, ends the demo with its status."""
    command = [sys.executable, str(ROOT / "tools" / script), *map(str, arguments)]
    tool = subprocess.Popen(command, env={**os.environ, **environment})
    with leaving_signals_to(tool):
        code = tool.wait()
    # A process that a signal has ended has its negative number.
    status = code if code >= 0 else STATUS_BASE - code
    if status - STATUS_BASE in _SIGNALS:
        print(f"\nstopped; go on with: {resuming_command()}", file=sys.stderr)
    if status:
        sys.exit(status)


@contextmanager
def leaving_signals_to(tool: subprocess.Popen[bytes]) -> Iterator[None]:
    """A block in which Ctrl-C and SIGTERM are the tool's, which saves what it has."""

    def pass_on(number: int, _frame: object) -> None:
        # The terminal sends Ctrl-C to the tool itself.
        if number == signal.SIGTERM:
            tool.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def resuming_command() -> str:
    """The command that goes on, with the data's folder as ``make demo`` sets it."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--resume"]
    command = shlex.join([sys.executable, sys.argv[0], "--resume", *arguments])
    folder = os.environ.get("FASTREID_DATASETS")
    return f"FASTREID_DATASETS={shlex.quote(folder)} {command}" if folder else command
