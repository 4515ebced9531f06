"""Runs Python in a process of its own, where import state or exit status is what is tested."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS...`` with the plugin importable and no GPU, and capture its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
