"""Two warnings on import that advise a Cython build, which the plugin's own ranking replaces."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_cython_warnings() -> Iterator[None]:
    """Silence "Cython rank evaluation ... is unavailable", and its ROC twin, during the import."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cython (rank|roc) evaluation", category=Warning)
        yield
