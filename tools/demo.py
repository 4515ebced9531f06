"""The demo: train a BN baseline and MetaBIN on the drawn data, compare them on unseen targets.

python tools/demo.py [--output logs/demo] [KEY VALUE ...]

Both runs go through tools/train_net.py, with FASTREID_DATASETS pointing at the data of
tools/make_demo_data.py. The table, its numbers and two figures are left in the output folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from report.results import read_results, results_table, write_csv

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {"BN": "configs/BN-demo.yml", "MetaBIN": "configs/MetaBIN-demo.yml"}
QUERIES_SHOWN = 6


def main() -> None:
    """Train, evaluate, print the table and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("logs/demo"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for both runs")
    args = parser.parse_args()

    folders = {method: args.output / method.lower() for method in CONFIGS}
    start = time.perf_counter()
    for number, (method, config) in enumerate(CONFIGS.items(), start=1):
        print(f"\n=== Run {number} of {len(CONFIGS)}: {method} ({config}) ===", flush=True)
        run_tool("train_net.py", "--config-file", config, "OUTPUT_DIR", folders[method], *args.opts)

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
        *("plot_ranks.py", "--config-file", folder / "config.yaml", "--dataset", target),
        *("--queries", QUERIES_SHOWN, "--output", ranked, "MODEL.WEIGHTS", weights),
    )
    return [gates, gates.with_suffix(".csv"), ranked]


def run_tool(script: str, *arguments: object) -> None:
    """Run a script beside this one; its failure ends the demo with its status."""
    command = [sys.executable, str(ROOT / "tools" / script), *map(str, arguments)]
    status = subprocess.run(command, cwd=Path.cwd(), check=False).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
