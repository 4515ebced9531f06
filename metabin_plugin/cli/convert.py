"""``metabin convert``: checkpoints of the authors' code, and for it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from metabin_plugin.errors import CheckpointError
from metabin_plugin.files import check_not_read, reason, replace_file
from metabin_plugin.modeling.backbones import RESNET
from metabin_plugin.weights.authors_checkpoint import (
    PIXEL_ENTRY,
    Conversion,
    from_authors,
    to_authors,
)
from metabin_plugin.weights.files import read_weight_file


def run(options: Namespace) -> None:
    """Read, convert, write, and print what was done.

    Raises:
        CheckpointError: the output is the input, of which some entries would be lost.
    """
    check_not_read(Path(options.output), "OUTPUT", [options.input], CheckpointError)
    checkpoint = read_weight_file(options.input)
    convert = to_authors if options.to == "authors" else from_authors
    conversion = convert(checkpoint, options.input)
    write(conversion.checkpoint, options.output)
    print(f"{options.output}: {text(conversion)}")


def write(checkpoint: dict[str, Any], path: str) -> None:
    """Write a checkpoint, complete or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        replace_file(path, lambda file: torch.save(checkpoint, file))
    # torch.save can wrap the error of the file it writes to.
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} cannot be written ({reason(error)}); give a folder that is there and has space"
        ) from error


def text(conversion: Conversion) -> str:
    """What was converted, what was left out, and what to set."""
    model = conversion.checkpoint["model"]
    gates = [value for name, value in model.items() if name.endswith(".gate")]
    lines = [
        f"{conversion.tensors} tensors, {len(gates)} normalization layers with "
        f"{sum(len(gate) for gate in gates)} gates",
        f"MODEL.BACKBONE: {conversion.backbone}, NORM BIN",
    ]
    if conversion.dropped:
        lines.append(f"dropped: {', '.join(conversion.dropped)}")
    for name, value in conversion.checkpoint.get(PIXEL_ENTRY, {}).items():
        values = [round(number, 3) for number in value.flatten().tolist()]
        lines.append(f"MODEL.{name.upper()} in training: {values}")
    if conversion.backbone.name == RESNET:
        lines.append(
            "the stem's pooling differs: the authors' has padding=1, fastreid's ceil_mode=True and "
            "no padding; for their embeddings set model.backbone.maxpool = "
            "torch.nn.MaxPool2d(3, 2, padding=1)"
        )
    return "\n".join(lines)
