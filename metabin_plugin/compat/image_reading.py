"""fastreid opens whatever an image's path leads to, in whatever format Pillow takes it for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metabin_plugin.compat.rebinding import repair


def repair_image_reading() -> None:
    """A data set from elsewhere can make fastreid start Ghostscript, wait for ever or run out.

    An EPS file may have any name, a name may be that of a pipe, and a few kB of PNG may stand for
    gigabytes. The plugin's own data sets read by ``metabin_plugin.data.readable``.
    """
    from fastreid.data import data_utils

    repair(data_utils, "read_image", _checked)


def _checked(original: Callable[..., Any]) -> Callable[..., Any]:
    def read_image(file_name: str, format: str | None = None) -> Any:
        # Here, because the package of the data sets needs a repaired fastreid.
        from metabin_plugin.data.image_formats import open_image

        with open_image(file_name):
            return original(file_name, format)

    return read_image
