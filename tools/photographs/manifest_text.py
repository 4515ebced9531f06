"""The text of a manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from metabin_plugin.errors import DatasetError
from metabin_plugin.files import name_in_text
from metabin_plugin.text import shown
from photographs.paths import path_from
from photographs.photograph import Photograph

# A manifest has no empty labels.
NO_CAMERA = "0"


def manifest_text(photographs: Sequence[Photograph], folder: Path, manifest: Path) -> bytes:
    """A manifest of photographs, with the column ``domain`` if they have any.

    Args:
        photographs: with their subsets.
        folder: what their paths are relative to.
        manifest: path of the file, which paths in it are relative to.

    Returns:
        CSV, UTF-8.

    Raises:
        DatasetError: the name of a folder is not UTF-8.
    """
    has_domains = any(photograph.domain for photograph in photographs)
    start = text_of(path_from(manifest.parent, folder))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "pid", "camid", *(["domain"] if has_domains else []), "subset"])
    for p in photographs:
        # Readers take spaces off both ends of a value.
        path = f"./{p.path}" if start == "." else f"{start.rstrip('/')}/{p.path}"
        domain = [p.domain] if has_domains else []
        writer.writerow([path, p.identity, p.camera or NO_CAMERA, *domain, p.subset])
    return text.getvalue().encode()


def text_of(path: str) -> str:
    """The name of a file as manifests and configs, which are UTF-8, have it.

    Raises:
        DatasetError: it is not UTF-8.
    """
    try:
        return name_in_text(path)
    except UnicodeDecodeError:
        raise DatasetError(
            f"The name {shown(path)} is not UTF-8, which manifests and configs are; rename it."
        ) from None
