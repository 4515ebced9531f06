"""Peak memory of a training with MetaBIN beside one with batch normalization.

On a CPU it is the resident memory of a process of its own, Python and PyTorch included; on a GPU
it is what PyTorch allocated there.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.measuring import measure_apart
from benchmarks.report import Arm, Report
from benchmarks.training import ARMS, Setting, add_training_arguments, read_setting, trainings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--iterations", type=int, default=3)
    add_training_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """Measure."""
    setting = read_setting(args)
    rows = []
    for arm in ARMS:
        on_gpu, resident = measure_apart(_train, setting, arm, args.iterations)
        rows.append(Arm(setting.arm(arm), peak_bytes=on_gpu or resident))
    return Report(f"Peak memory of {args.iterations} training iterations: {setting}", rows)


def _train(setting: Setting, arm: str, iterations: int) -> int:
    """Train in this process; the largest memory that PyTorch had on a GPU, 0 without one."""
    with trainings([setting], [arm]) as started:
        (training,) = started.values()
        for _ in range(iterations):
            training.iterate()
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
