"""Measure the project against what it replaces.

python tools/benchmark.py rank [--size market|msmt17] [--repetitions N] [--json FILE]
python tools/benchmark.py eval [--images N] [--splits N] [--json FILE]

Arms of a comparison run in one process, after a warm-up, in turns; the table has the median of
their times. Peak memory is that of a process of its own that runs the arm once, data included.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import metabin_plugin

metabin_plugin.register()

from benchmarks import evaluation, rank
from benchmarks.machine import describe

BENCHMARKS = {"rank": rank, "eval": evaluation}


def main() -> None:
    """Run a benchmark, print its table, write its JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="benchmark", required=True)
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.add_argument("--json", type=Path, help="file for machine, settings and all times")
        module.add_arguments(command)
    args = parser.parse_args()
    machine = describe()
    report = BENCHMARKS[args.benchmark].run(args)
    print(f"{machine}\n\n{report.text()}")
    if args.json:
        args.json.write_text(report.to_json(args.benchmark, machine))


if __name__ == "__main__":
    main()
