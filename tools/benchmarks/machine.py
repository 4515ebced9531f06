"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("numpy", "torch", "fastreid", "metabin_plugin")


def describe() -> str:
    """Processor, threads, load, device and versions, in two lines."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    machine = (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), "
        f"load {load:.1f} at the start, {_accelerator()}"
    )
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{machine}\nPython {platform.python_version()}, {versions}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerator() -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{torch.cuda.get_device_name()}, {libraries}"
