"""On what the last bits of a training rest beside its config: the machine and the libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy
import PIL
import torch
import torchvision

from metabin_plugin.text import shown

_LONGEST = 500


def machine_record(device: torch.device) -> dict[str, str]:
    """Describe this process.

    With the same record, config and checkpoint a run goes on bit for bit; PyTorch's kernels sum in
    an order that depends on the number of threads and on the instructions of the processor.

    Args:
        device: where the network is.

    Returns:
        What it is to its value, in words.
    """
    record = {
        "PyTorch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "NumPy": numpy.__version__,
        "Pillow": PIL.__version__,
        "threads": str(torch.get_num_threads()),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "device": device.type,
    }
    if device.type == "cuda":
        record["device"] = torch.cuda.get_device_name(device)
        record["CUDA"] = str(torch.version.cuda)
        record["cuDNN"] = str(torch.backends.cudnn.version())
    return record


def check_machine_record(record: Any) -> None:
    """Refuse what ``machine_record`` does not return.

    Raises:
        ValueError: it is not a dict of short texts.
    """
    if not isinstance(record, dict) or not all(
        isinstance(text, str) and len(text) <= _LONGEST for pair in record.items() for text in pair
    ):
        raise ValueError("is not a description of a machine")


def machine_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In what two machines differ.

    Args:
        then: record of the first.
        now: record of the second.

    Returns:
        One line ``name: then -> now`` for each difference.
    """
    return [
        f"{shown(name)}: {shown(then.get(name, '(absent)'))} -> {now.get(name, '(absent)')}"
        for name in {**now, **then}
        if then.get(name) != now.get(name)
    ]
