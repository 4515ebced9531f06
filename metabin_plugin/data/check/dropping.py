"""Taking images out of manifests."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable

from metabin_plugin.data.lookup import datasets_root
from metabin_plugin.data.manifest import find_manifest
from metabin_plugin.data.manifest_rows import is_manifest
from metabin_plugin.errors import DatasetError
from metabin_plugin.files import open_regular, reason, replace_file


def drop_images(names: Iterable[str], images: Collection[str]) -> dict[str, int]:
    """Rewrite manifests without the lines of some images; everything else in them stays.

    Args:
        names: of datasets and manifests; datasets, and files that are no manifests, are left
            alone.
        images: paths as the manifests' rows give them, with the manifest's folder.

    Returns:
        How many lines each manifest lost, where it lost any.

    Raises:
        DatasetError: a manifest cannot be written; it is as it was.
    """
    manifests = [name for name in dict.fromkeys(names) if is_manifest(name)]
    dropped = {name: _drop(name, images) if images else 0 for name in manifests}
    return {name: count for name, count in dropped.items() if count}


def _drop(name: str, images: Collection[str]) -> int:
    try:
        manifest = find_manifest(name, datasets_root())
        with open_regular(manifest) as file:
            text = file.read().decode("utf-8-sig")
        lines = [cells for cells in csv.reader(io.StringIO(text, newline="")) if cells]
        path = [column.strip() for column in lines[0]].index("path")
    # No rows of such a file were read; the check has said why.
    except (DatasetError, OSError, ValueError, IndexError, csv.Error):
        return 0

    def is_kept(cells: list[str]) -> bool:
        return path >= len(cells) or str(manifest.parent / cells[path].strip()) not in images

    kept = [lines[0], *filter(is_kept, lines[1:])]
    if len(kept) == len(lines):
        return 0
    written = io.StringIO()
    # Not quoted against spreadsheets (``as_cell``): these paths are read again.
    csv.writer(written, lineterminator="\n").writerows(kept)
    try:
        replace_file(manifest, lambda file: file.write(written.getvalue().encode()))
    except OSError as error:
        raise DatasetError(
            f"Manifest {manifest} cannot be written ({reason(error)}); make it writable."
        ) from error
    return len(lines) - len(kept)
