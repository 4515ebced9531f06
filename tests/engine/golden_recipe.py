"""The seeded recipe behind the golden step files: parameters, batches and parameter names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"

# Blocks of MobileNetV2's stages under the names of the reference, layer2 to layer8.
MOBILENET_BLOCKS = {2: 1, 3: 2, 4: 3, 5: 4, 6: 3, 7: 3, 8: 1}
NORM_NAMES = {"bat_n.": "", "ins_n.": "instance_", "gate": "gate"}


def load(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and arrays of a golden step file."""
    description = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return description, {key: arrays[key] for key in arrays.files}


def plugin_name(reference: str) -> str:
    """The plugin's name of a parameter or buffer of the reference."""
    if reference.startswith("heads.classifier_norm."):
        return reference.replace("heads.classifier_norm.", "heads.bottleneck.0.")
    if reference == "heads.classifier_fc.weight":
        return "heads.weight"
    name = reference.replace("bat_n.", "").replace("ins_n.", "instance_")
    name = name.replace("downsample.conv.", "downsample.0.").replace(
        "downsample.bn.", "downsample.1."
    )
    return name


def mobilenet_name(reference: str) -> str:
    """The same for the reference's MobileNetV2, whose layers have names of their own."""
    name = plugin_name(reference)
    match = re.match(r"backbone\.layer(\d)\.(.*)", name)
    if not match:
        return name
    stage, rest = int(match[1]), match[2]
    if stage in (1, 9):
        index = 0 if stage == 1 else 18
        return f"backbone.features.{index}." + rest.replace("conv.", "0.").replace("bn.", "1.")
    block, rest = rest.split(".", 1)
    index = 1 + sum(MOBILENET_BLOCKS[s] for s in range(2, stage)) + int(block)
    places = {
        "conv1.conv.": "0.",
        "conv1.bn.": "1.",
        "dwconv2.conv.": "3.",
        "dwconv2.bn.": "4.",
        "conv3.": "6.",
        "bn.": "7.",
    }
    prefix = next(p for p in places if rest.startswith(p))
    return f"backbone.features.{index}.conv.{places[prefix]}{rest[len(prefix) :]}"


def draw_parameter(role: str, shape: list[int], seed: int) -> torch.Tensor:
    """Value of a parameter by its role and seed."""
    rng = np.random.RandomState(seed)
    if role == "gate":
        value = np.minimum(1, 0.3 + 0.9 * rng.uniform(0, 1, shape))
    elif role == "conv_weight":
        fan_in = shape[1] * shape[2] * shape[3]
        value = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
    elif role == "fc_weight":
        value = 0.02 * rng.standard_normal(shape)
    elif role in ("bn_weight", "in_weight", "neck_bn_weight"):
        value = 1 + 0.1 * rng.standard_normal(shape)
    elif role in ("bn_bias", "in_bias"):
        value = 0.7 + 0.1 * rng.standard_normal(shape)
    else:
        assert role == "neck_bn_bias", role
        value = np.zeros(shape)
    return torch.from_numpy(np.asarray(value, dtype=np.float64))


def draw_batch(seed: int, spec: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A training batch: images in [0, 255], identities and domains."""
    domains, ids, copies, height, width = (spec[k] for k in ("D", "P", "K", "H", "W"))
    count = domains * ids * copies
    noise = np.random.RandomState(seed).randint(0, 256, size=(count, 3, height, width))
    images, targets, labels = [], [], []
    for n in range(count):
        gid = n // copies
        domain = gid // ids
        pattern = np.random.RandomState(9000 + gid).randint(
            0, 32, size=(3, height // 8, width // 8)
        )
        image = np.floor(noise[n] * (0.20 + 0.08 * domain)) + 12 * domain
        images.append(np.clip(image + np.kron(pattern, np.ones((8, 8))), 0, 255))
        targets.append(gid)
        labels.append(domain)
    return {
        "images": torch.from_numpy(np.stack(images).astype(np.float64)),
        "targets": torch.tensor(targets),
        "domains": torch.tensor(labels),
    }


def draw_test_images(seed: int, spec: dict[str, Any]) -> torch.Tensor:
    """The four test images of a step file."""
    images = np.random.RandomState(seed).randint(0, 256, size=(4, 3, spec["H"], spec["W"]))
    return torch.from_numpy(images.astype(np.float64))


def checksum(values: torch.Tensor) -> np.ndarray:
    """Sum, sum of magnitudes and a sum that depends on the order."""
    flat = values.detach().double().flatten().cpu().numpy()
    return np.array(
        [flat.sum(), np.abs(flat).sum(), (flat * np.sin(np.arange(1, flat.size + 1))).sum()]
    )
