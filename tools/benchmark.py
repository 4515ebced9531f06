"""Measure the project against what it replaces.

python tools/benchmark.py layer     the normalization layer, against nn.BatchNorm2d
python tools/benchmark.py step      a training iteration, against one of batch normalization
python tools/benchmark.py memory    the peak memory of the two
python tools/benchmark.py inference images to features, against batch normalization
python tools/benchmark.py load      images that the loader gives, against those that training takes
python tools/benchmark.py eval      an evaluation of several splits
python tools/benchmark.py rank      CMC, mAP and mINP
python tools/benchmark.py search    indexes of the search, against comparing all vectors
python tools/benchmark.py gpu       all that a GPU has to show, in four minutes

Each has arguments of its own (layer --help) and takes --json FILE. Arms of a comparison run in one
process with one setting of its memory allocator, after a warm-up, in turns; tables have medians
and their ratios. Peak memory is that of a process of its own that runs the arm, data included.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import metabin_plugin
from metabin_plugin.cli.outcome import run_cli
from metabin_plugin.errors import ConfigError
from metabin_plugin.files import check_file, write_whole

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "projects" / "Benchmarks"))

BENCHMARKS = {
    "layer": "layer",
    "step": "step",
    "memory": "training_memory",
    "inference": "inference",
    "load": "load",
    "rank": "rank",
    "eval": "evaluation",
    "search": "search",
    "gpu": "gpu",
}


def main() -> None:
    """Run a benchmark, print its table, write its JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the benchmark, see above")
    chosen = parser.parse_args()

    metabin_plugin.let_waiting_threads_sleep()
    metabin_plugin.register()
    benchmark = importlib.import_module(f"benchmarks.{BENCHMARKS[chosen.benchmark]}")
    from benchmarks.measuring import describe
    from benchmarks.report import to_json

    parser = argparse.ArgumentParser(
        prog=f"{parser.prog} {chosen.benchmark}",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="file for machine, settings and all times")
    benchmark.add_arguments(parser)
    args = parser.parse_args(chosen.arguments)
    with run_cli():
        if args.json:
            # Before minutes of measuring.
            check_file(args.json, "--json", ConfigError)
        if chosen.benchmark == "gpu":
            # It writes what it measures as it comes.
            benchmark.run(args)
            return
        machine = describe()
        result = benchmark.run(args)
        print(f"{machine}\n\n{result.text()}")
        if args.json:
            content = to_json(result, chosen.benchmark, machine).encode()
            write_whole(args.json, lambda file: file.write(content), ConfigError)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    # A process that measures apart, before it imports what it runs.
    metabin_plugin.register()
