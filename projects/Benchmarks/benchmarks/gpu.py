"""All that a GPU has to show, in four minutes, row by row.

Every row is printed and added to the JSON file (one object a line) the moment it is measured. Each
part runs in a process of its own and is ended when its time is over: a run that is cut short loses
nothing. Times are medians in milliseconds, errors relative, memory in MiB.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import gpu_layer, gpu_network, gpu_training
from benchmarks.parts import Part, run_parts
from benchmarks.setting import BACKBONES, add_images
from benchmarks.training import write_domains
from metabin_plugin.errors import ConfigError
from metabin_plugin.files import check_file

# Seconds of each part, those that matter most first; of "iterations", for each network.
PARTS: dict[str, tuple[float, Callable[..., None]]] = {
    "versions": (15, gpu_network.versions),
    "parity": (25, gpu_training.parity),
    "iterations": (42, gpu_training.iterations),
    "layer": (33, gpu_layer.layers),
    "launches": (23, gpu_training.launches),
    "inference": (12, gpu_network.inference),
    "resume": (13, gpu_training.resume),
    "loader": (20, gpu_network.loader),
    "compile": (15, gpu_training.compiled),
}
_SECONDS = 240.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help="for all parts (default: %(default)g)"
    )
    parser.add_argument(
        "--networks", nargs="+", choices=BACKBONES, default=["mobilenetv2", "resnet50"]
    )
    add_images(parser)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda", help="cpu to try the command"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, print and write.

    Raises:
        ConfigError: there is no GPU, or the file cannot be written.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda: PyTorch finds no GPU; run it where there is one, or try the command "
            "with --device cpu and small --size and --batch"
        )
    if args.json:
        check_file(args.json, "--json", ConfigError)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = gpu_network.Work(
            args.device, args.size, args.batch, tuple(write_domains(folder)), folder
        )
        parts = []
        for part in PARTS:
            seconds, measure = PARTS[part]
            limit = seconds * args.seconds / _SECONDS
            if part not in args.parts:
                continue
            if part == "iterations":
                parts += [
                    Part(f"{part} {network}", measure, limit, (work, network))
                    for network in args.networks
                ]
            else:
                parts.append(Part(part, measure, limit, (work, args.networks)))
        run_parts(parts, args.json)
