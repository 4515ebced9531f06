"""Features of images by a MetaBIN network, as it is and folded, beside batch normalization.

Weights are random, running statistics those of the measured images. "Open" are gates below 1,
drawn at random; their channels need statistics of each image.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measuring import keep_memory, times_in_turns
from benchmarks.report import Arm, Report
from benchmarks.setting import (
    BATCH_NORM,
    METABIN,
    Setting,
    add_network_arguments,
    read_setting,
    training_config,
)
from metabin_plugin.deploy import fold_norms
from metabin_plugin.engine import MetaBINTrainer
from metabin_plugin.norm import gate_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own arguments."""
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument(
        "--open", type=float, default=1.0, help="share of open gates (default: %(default)s)"
    )
    add_network_arguments(parser)


def run(args: argparse.Namespace) -> Report:
    """Measure."""
    setting = read_setting(args)
    allocator = keep_memory(args.device)
    torch.manual_seed(0)
    images = 255 * torch.rand(args.batch, 3, *args.size).to(args.device)
    networks = build_networks(setting, args.open, images)
    calls = {name: features_call(network, images) for name, network in networks.items()}
    seconds = times_in_turns(calls, args.repetitions, warmups=2)
    rows = [Arm(name, times) for name, times in seconds.items()]
    rate = args.batch / statistics.median(seconds[BATCH_NORM])
    notes = [f"{BATCH_NORM}: {rate:,.1f} images/s.", allocator]
    return Report(f"Images to features: {setting}", rows, notes)


def build_networks(
    setting: Setting, share: float, images: Tensor, *, folded: bool = True
) -> dict[str, nn.Module]:
    """The networks that are compared, in evaluation mode, by arm.

    Args:
        setting: backbone, size and device.
        share: share of open gates.
        images: RGB, 0 to 255, (N, 3, H, W); of them are the running statistics.
        folded: whether each is there folded, too.
    """
    networks = {}
    for name, arm, own_share in (
        (BATCH_NORM, BATCH_NORM, 0.0),
        (f"{METABIN}, {share:.0%} of the gates open", METABIN, share),
        (f"{METABIN}, all gates 1", METABIN, 0.0),
    ):
        network = _build(setting, arm, own_share)
        _settle(network, images)
        networks[name] = network
        if folded:
            networks[f"{name}, folded"] = _folded(network)
    return networks


def _build(setting: Setting, arm: str, share: float) -> nn.Module:
    cfg = training_config(setting, arm, ["none"], Path())
    cfg.MODEL.HEADS.NUM_CLASSES = 1
    network = MetaBINTrainer.build_model(cfg)
    with torch.no_grad():
        for gate in gate_parameters(network).values():
            is_open = torch.rand_like(gate) < share
            gate[is_open] = torch.rand_like(gate)[is_open]
    return network


@torch.no_grad()
def _settle(network: nn.Module, images: Tensor) -> None:
    """Give the norm layers running statistics that fit, lest activations vanish or explode."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
    backbone = network.get_submodule("backbone").train()
    # Normalized as preprocessed images are, roughly.
    backbone((images - 127.5) / 64)
    network.eval()


def _folded(network: nn.Module) -> nn.Module:
    folded = copy.deepcopy(network)
    folded.backbone = fold_norms(network.get_submodule("backbone")).network
    return folded


def features_call(network: nn.Module, images: Tensor) -> Callable[[], object]:
    """Images to features, without autograd."""

    def call() -> object:
        with torch.no_grad():
            return network({"images": images})

    return call
