"""An iteration of MetaBIN beside a training step of the same backbone with batch normalization.

Both are run by the project's trainer, with its loader, hooks and optimizer, on drawn images, from
random weights. An iteration is a base step and a meta step, each on a batch of its own.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

from benchmarks.measuring import compilations, times_in_turns
from benchmarks.report import Arm, Report
from benchmarks.training import (
    ARMS,
    BASE,
    DATA,
    PARTS,
    add_training_arguments,
    read_setting,
    trainings,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--warmups", type=int, default=2, help="unmeasured iterations of each")
    parser.add_argument(
        "--off-too",
        action="store_true",
        help="also measure, in turns with these, both without --channels-last, --compile, --amp",
    )
    add_training_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """Measure."""
    setting = read_setting(args)
    settings = [replace(setting, switches=()), setting] if args.off_too else [setting]
    with trainings(settings) as started:
        calls = {name: one.iterate for name, one in started.items()}
        seconds = times_in_turns(calls, args.repetitions, warmups=args.warmups)
        parts = {name: one.parts for name, one in started.items()}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows, notes = [], []
    for one in settings:
        plain, metabin = map(one.arm, ARMS)
        for name, own_parts in ((plain, (DATA, BASE)), (metabin, PARTS)):
            rows.append(Arm(name, seconds[name]))
            rows += [
                Arm(f"{name}: {part}", parts[name][part][args.warmups :]) for part in own_parts
            ]
        notes.append(
            f"{metabin}: {medians[metabin] / medians[plain]:.2f} times {plain}; "
            f"{2 * args.batch / medians[metabin]:,.1f} and {args.batch / medians[plain]:,.1f} "
            "images/s."
        )
    notes.append(f"torch.compile has made {compilations()} graph(s).")
    return Report(f"A training iteration: {setting}", rows, notes)
