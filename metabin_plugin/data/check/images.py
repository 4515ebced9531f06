"""Reading every image once, in several processes."""

from __future__ import annotations

from collections.abc import Iterable

from torch.utils.data import Dataset

from metabin_plugin.data.readable import read_rgb
from metabin_plugin.errors import DatasetError
from metabin_plugin.worker_loader import WorkerLoader

# Images that a process reads between two messages to the main one.
_CHUNK = 16

Size = tuple[int, int]


class _Files(Dataset[Size | str]):
    """Width and height of images, or the sentence that says why one cannot be read."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Size | str:
        try:
            return read_rgb(self.paths[index]).size
        except DatasetError as error:
            return str(error)


def read_sizes(paths: Iterable[str], workers: int) -> tuple[dict[str, Size], list[DatasetError]]:
    """Decode images whole, as training does.

    Args:
        paths: image files; each is read once.
        workers: number of reading processes; 0 reads in this one.

    Returns:
        Width and height in pixels of each readable image, and an error for each other one.
    """
    files = _Files(list(dict.fromkeys(paths)))
    loader = WorkerLoader(
        workers_key="--workers",
        dataset=files,
        batch_size=_CHUNK,
        num_workers=workers,
        collate_fn=list,
    )
    results = [result for chunk in loader for result in chunk]
    named = list(zip(files.paths, results, strict=True))
    sizes = {path: result for path, result in named if not isinstance(result, str)}
    return sizes, [DatasetError(result) for result in results if isinstance(result, str)]
