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
        DatasetError: the name of a file is not UTF-8.
    """
    has_domains = any(photograph.domain for photograph in photographs)
    start = path_from(manifest.parent, folder)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "pid", "camid", *(["domain"] if has_domains else []), "subset"])
    for p in photographs:
        # Readers take spaces off both ends of a value.
        path = f"./{p.path}" if start == "." else f"{start.rstrip('/')}/{p.path}"
        domain = [p.domain] if has_domains else []
        writer.writerow([path, p.identity, p.camera or NO_CAMERA, *domain, p.subset])
    try:
        return name_in_text(text.getvalue()).encode()
    except UnicodeDecodeError:
        raise DatasetError(
            f"A name in {shown(str(folder))} is not UTF-8, which manifests are: "
            f"{shown(_first_not_utf8(photographs))}; rename it."
        ) from None


def _first_not_utf8(photographs: Sequence[Photograph]) -> str:
    return next(p.path for p in photographs if not p.path.isprintable())
