"""Labels of nobody, as Market-1501 has them: junk and distractors.

Junk, identity -1, is what a detector took for a person: it is used nowhere. Distractors, identity
0, are people and things that nobody asks for: they are in the gallery only, never a query and never
trained on.
"""

from __future__ import annotations

import re

JUNK = -1
DISTRACTOR = 0

# A spreadsheet or a table of numbers with gaps writes -1 as -1.0.
_JUNK = re.compile(r"-0*1(\.0*)?")
_ZERO = re.compile(r"0+(\.0*)?")
# As releases in the form of Market-1501 name their files: 0000_c1s1_000151_01.jpg.
_DISTRACTOR_NAME = re.compile(r"0{4,}_c\d+s\d+(?!\d)")


def is_junk(label: str) -> bool:
    """Whether an identity's label is that of junk: -1, in every data set.

    Args:
        label: what a file's name or a manifest says who is on an image.
    """
    return _JUNK.fullmatch(label) is not None


def is_distractor(label: str, path: str) -> bool:
    """Whether an image is a distractor: its label and its file's name both say so.

    Many number their own people from 0, or number those of a release anew. So label 0 alone is a
    person; it is a distractor where the file is named as in a release as well, ``0000_c1s1_…``.

    Args:
        label: what a file's name or a manifest says who is on the image.
        path: of the image, with ``/`` or the system's separator between folders.
    """
    name = re.split(r"[/\\]", path)[-1]
    return bool(_ZERO.fullmatch(label) and _DISTRACTOR_NAME.match(name))
