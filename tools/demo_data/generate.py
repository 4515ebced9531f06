"""Draw the whole benchmark with several processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path

from demo_data import marker
from demo_data.draw import draw_shots
from demo_data.layouts import Shot, plan
from demo_data.summary import table


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
    made = marker.parameters(seed, scale)
    shots = plan(seed, scale)
    if marker.is_complete(output, made):
        report(f"{output} is up to date.")
    else:
        output.mkdir(parents=True, exist_ok=True)
        marker.write(output, made, complete=False)
        for folder in {(output / shot.path).parent for shot in shots}:
            folder.mkdir(parents=True, exist_ok=True)
        done, shown = 0, 0
        for count in _draw_all(seed, output, shots, workers):
            done += count
            if done - shown >= 500 or done == len(shots):
                report(f"{done} of {len(shots)} images drawn")
                shown = done
        marker.write(output, made, complete=True)
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
