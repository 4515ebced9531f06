"""Trying all backbones, each in a process of its own."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

from backbones.results import read_results, write_results
from backbones.trial import Outcome, run_trial
from benchmarks.machine import describe
from benchmarks.memory import measure_apart
from metabin_plugin.modeling.known_backbones import BACKBONES, KnownBackbone


def run_all(path: Path, export: list[KnownBackbone], again: bool) -> None:
    """Try each backbone that has no outcome yet, and keep each outcome at once.

    Args:
        path: the file of outcomes.
        export: backbones that are to be exported too.
        again: whether to try those that have failed again.
    """
    results = read_results(path)
    results.machine = describe()
    open_ = [b for b in BACKBONES if _is_open(b, results.outcomes.get(b), b in export, again)]
    for number, backbone in enumerate(open_, 1):
        outcome = _in_own_process(backbone, backbone in export)
        results.outcomes[backbone] = outcome
        write_results(path, results)
        words = outcome.error or f"{outcome.layers} BIN layers, {outcome.seconds:.1f} s"
        print(f"{number} of {len(open_)}: {backbone}: {words}", flush=True)


def _is_open(backbone: KnownBackbone, outcome: Outcome | None, exports: bool, again: bool) -> bool:
    if outcome is None:
        return True
    if outcome.error:
        return again
    return exports and not outcome.exported


def _in_own_process(backbone: KnownBackbone, exports: bool) -> Outcome:
    # A large network's memory goes back, and no backbone can change fastreid for the next.
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome, _ = measure_apart(run_trial, backbone, Path(folder), exports)
        except RuntimeError:
            return Outcome(asdict(backbone), error="its process was killed, for memory perhaps")
    return outcome
