"""The demo: train a BN baseline and MetaBIN on the drawn data, compare them on unseen targets.

python tools/demo.py [--output logs/demo] [--resume] [KEY VALUE ...]

Both runs go through tools/train_net.py, with FASTREID_DATASETS pointing at the data of
tools/make_demo_data.py. The table, its numbers and two figures are left in the output folder.
Ctrl-C saves the run at hand; --resume goes on there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metabin_plugin.cli import STATUS_BASE
from report.results import read_results, results_table, write_csv

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"BN": "configs/BN-demo.yml", "MetaBIN": "configs/MetaBIN-demo.yml"}
QUERIES_SHOWN = 6
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Train, evaluate, print the table and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("logs/demo"))
    parser.add_argument("--resume", action="store_true", help="go on where it was stopped")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for both runs")
    args = parser.parse_args()

    resume = ["--resume"] if args.resume else []
    folders = {method: args.output / method.lower() for method in CONFIGS}
    start = time.perf_counter()
    for number, (method, config) in enumerate(CONFIGS.items(), start=1):
        print(f"\n=== Run {number} of {len(CONFIGS)}: {method} ({config}) ===", flush=True)
        options = ["--config-file", config, *resume, "OUTPUT_DIR", folders[method], *args.opts]
        run_tool("train_net.py", *options)

    results = {method: read_results(folder) for method, folder in folders.items()}
    table = results_table(results)
    (args.output / "results.md").write_text(table + "\n")
    write_csv(results, args.output / "results.csv")

    target = next(iter(results["MetaBIN"]))
    figures = draw_figures(folders["MetaBIN"], args.output, target)
    print(f"\nUnseen targets, % ({time.perf_counter() - start:.0f} s):\n\n{table}\n")
    print(f"Table: {args.output / 'results.md'}, {args.output / 'results.csv'}")
    for figure in figures:
        print(f"Figure: {figure}")


def draw_figures(folder: Path, output: Path, target: str) -> list[Path]:
    """Gates per layer, and ranked galleries of a few queries, of the trained MetaBIN network."""
    weights, gates, ranked = folder / "model_final.pth", output / "gates.png", output / "ranked.png"
    run_tool("plot_gates.py", weights, "--output", gates)
    run_tool(
        *("visualize.py", "--config-file", folder / "config.yaml", "--dataset", target),
        *("--queries", QUERIES_SHOWN, "--output", ranked, "MODEL.WEIGHTS", weights),
    )
    return [gates, gates.with_suffix(".csv"), ranked]


def run_tool(script: str, *arguments: object) -> None:
    """Run a script beside this one; its failure, or a signal, ends the demo with its status."""
    command = [sys.executable, str(ROOT / "tools" / script), *map(str, arguments)]
    tool = subprocess.Popen(command)
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


if __name__ == "__main__":
    main()
