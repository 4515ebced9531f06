"""Photographs with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import NamedTuple

from metabin_plugin.errors import DatasetError
from metabin_plugin.text import shown
from photographs.guess import guess_layout
from photographs.layout import Layout

# Market-1501's label of what its detector took for a person.
JUNK = "-1"


class Photograph(NamedTuple):
    """One image and its labels; "" where they are not known.

    Attributes:
        path: relative to the folder of all photographs, with ``/`` between folders.
        identity: a label within the domain.
        camera: a label within the domain.
        domain: a label.
        subset: a subset of manifests.
    """

    path: str
    identity: str
    camera: str = ""
    domain: str = ""
    subset: str = ""

    @property
    def person(self) -> tuple[str, str]:
        """Domain and identity, which together tell people apart."""
        return self.domain, self.identity


def label_photographs(
    paths: Sequence[str], pattern: str = "", exclude: Sequence[str] = ()
) -> tuple[Layout, list[Photograph]]:
    """Read the labels of photographs from their paths.

    Args:
        paths: relative to their folder, with ``/`` between folders.
        pattern: their layout, see ``Layout``; "" guesses it.
        exclude: shell patterns of paths that are left out; ``*`` in them goes across folders.

    Returns:
        The layout, and the photographs without those of the identity ``JUNK``.

    Raises:
        DatasetError: no photograph is left, a path does not follow the layout, the layout cannot be
            guessed, or all photographs are of one person.
    """
    kept = [path for path in paths if not any(fnmatch(path, glob) for glob in exclude)]
    if not kept:
        raise DatasetError(
            f"All {len(paths)} images are left out by --exclude {' '.join(exclude)}; leave some."
        )
    layout = Layout(pattern) if pattern else guess_layout(kept)
    labels = [(path, layout.read(path)) for path in kept]
    strangers = [path for path, found in labels if found is None]
    if strangers:
        raise DatasetError(
            f"{len(strangers)} of {len(kept)} images do not follow the layout {layout}, "
            f"{shown(strangers[0])} for example; leave them out by --exclude, or give another "
            "--layout."
        )
    photographs = [
        Photograph(path, found.identity, found.camera, found.domain, found.subset)
        for path, found in labels
        if found is not None and found.identity != JUNK
    ]
    if len({photograph.person for photograph in photographs}) < 2:
        raise DatasetError(
            f"With the layout {layout} all images show one person ({shown(kept[0])} for example), "
            "and two are needed; give another --layout or folder."
        )
    return layout, photographs
