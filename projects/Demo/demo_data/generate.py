"""Draw the whole benchmark with several processes."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path

from demo_data import VERSION
from demo_data.compose import draw_shots
from demo_data.domains import Shot, plan

MARKER = "demo_data.json"
_PARTIAL = f"{MARKER}.partial"


class FolderError(Exception):
    """The output folder cannot be filled; its text names the folder and the remedy."""


def parameters(seed: int, scale: float) -> dict[str, float]:
    """Return what determines every pixel of a benchmark."""
    return {"version": VERSION, "seed": seed, "scale": scale}


def is_complete(output: Path, wanted: dict[str, float]) -> bool:
    """Tell whether a folder already holds the wanted benchmark.

    Args:
        output: the datasets root.
        wanted: result of ``parameters``.

    Returns:
        True if it is complete; False if it is empty, missing, or was left unfinished by a run
        with the same parameters.

    Raises:
        FolderError: if the folder holds anything else, which is never overwritten.
    """
    if not output.exists():
        return False
    if not output.is_dir():
        raise FolderError(f"{output} is not a folder; choose another --output")
    if {path.name for path in output.iterdir()} <= {_PARTIAL}:
        return False
    found = _read(output)
    if {key: found.get(key) for key in wanted} != wanted:
        raise FolderError(
            f"{output} is not empty and was not made by this version with seed {wanted['seed']} "
            f"and scale {wanted['scale']}; delete it or choose another --output"
        )
    return found.get("complete") is True


def write_marker(output: Path, made: dict[str, float], *, complete: bool) -> None:
    """Write the marker of a folder that is being, or has been, filled."""
    text = json.dumps({**made, "complete": complete}, indent=2)
    # Whole at any moment: a folder without it is taken for somebody else's.
    partial = output / _PARTIAL
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(output / MARKER)


def _read(output: Path) -> dict[str, object]:
    try:
        found = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def table(shots: Sequence[Shot]) -> str:
    """Return one line per dataset: persons, images and cameras.

    Args:
        shots: the images of the benchmark; false detections count as images only.
    """
    lines = [f"{'dataset':<12}{'identities':>12}{'images':>9}{'cameras':>9}"]
    for name in dict.fromkeys(shot.dataset for shot in shots):
        own = [shot for shot in shots if shot.dataset == name]
        people = {shot.person for shot in own if shot.person}
        cameras = {shot.camera for shot in own}
        lines.append(f"{name:<12}{len(people):>12}{len(own):>9}{len(cameras):>9}")
    lines.append(f"{'sum':<12}{'':>12}{len(shots):>9}")
    return "\n".join(lines)


def generate(
    output: Path, seed: int, scale: float, workers: int, report: Callable[[str], None]
) -> None:
    """Draw the benchmark into a folder.

    The pictures depend on seed and scale only, not on the number of processes. Other versions of
    numpy and Pillow, or another processor, may round single pixels differently.

    Args:
        output: the datasets root to fill; made if missing.
        seed: seed of people, cameras and pictures.
        scale: factor on the number of identities.
        workers: number of processes; 1 draws in this one.
        report: receives lines about the progress.

    Raises:
        FolderError: if the folder holds something else.
    """
    made = parameters(seed, scale)
    shots = plan(seed, scale)
    if is_complete(output, made):
        report(f"{output} is up to date.")
    else:
        output.mkdir(parents=True, exist_ok=True)
        write_marker(output, made, complete=False)
        for folder in {(output / shot.path).parent for shot in shots}:
            folder.mkdir(parents=True, exist_ok=True)
        done, shown = 0, 0
        for count in _draw_all(seed, output, shots, workers):
            done += count
            if done - shown >= 500 or done == len(shots):
                report(f"{done} of {len(shots)} images drawn")
                shown = done
        write_marker(output, made, complete=True)
    report(table(shots))


def _draw_all(seed: int, output: Path, shots: Sequence[Shot], workers: int) -> Iterator[int]:
    tasks = _by_camera(shots)
    if workers == 1:
        yield from (draw_shots(seed, output, task) for task in tasks)
        return
    # Not forked: the caller may hold threads and locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_on_ctrl_c) as pool:
        futures = [pool.submit(draw_shots, seed, output, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _end_on_ctrl_c() -> None:
    # A terminal sends it to all processes; one with a word about it is enough.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _by_camera(shots: Sequence[Shot]) -> list[list[Shot]]:
    """Group the shots so that one process draws a camera's background once."""

    def camera(shot: Shot) -> tuple[str, int]:
        return shot.dataset, shot.camera

    return [list(group) for _, group in groupby(sorted(shots, key=camera), camera)]
