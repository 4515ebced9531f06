"""Weight files as users have them: damaged in many ways, or made to do harm."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import torch

from metabin_plugin.errors import WeightsError
from metabin_plugin.weights.files import read_weight_file


class RunsCode:
    """When it is unpickled without care, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {shlex.quote(str(self.marker))}",)


def save_malicious(path: Path, marker: Path, legacy: bool = False, protocol: int = 2) -> str:
    """A file that makes ``marker`` when it is unpickled without care."""
    content = {"model": {"weight": torch.ones(1), "other": RunsCode(marker)}}
    kind = {"_use_new_zipfile_serialization": not legacy, "pickle_protocol": protocol}
    torch.save(content, path, **kind)
    return str(path)


def refusal(path: str) -> str:
    """What a file is refused with; "" if it is read."""
    try:
        read_weight_file(path)
    except WeightsError as error:
        return str(error)
    return ""


def flip_bit(path: Path, position: int, bit: int = 3) -> None:
    """Flip one bit of a file, in place."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
