"""Imports the fastreid modules that cannot be imported, or not without noise, on their own."""

from __future__ import annotations

import importlib

from metabin_plugin.compat.collections_mapping import collections_mapping
from metabin_plugin.compat.cython_warnings import no_cython_warnings
from metabin_plugin.compat.optional_faiss import optional_faiss
from metabin_plugin.compat.torch_six import torch_six

_MODULES = (
    "fastreid.evaluation.testing",
    "fastreid.data.build",
    "fastreid.evaluation.rank",
    "fastreid.evaluation.roc",
)


def import_fastreid() -> None:
    """Import fastreid's modules that need names which Python and PyTorch have since dropped.

    The names exist only during this call: the standard library and PyTorch stay as they were. Faiss
    may be missing.
    """
    with collections_mapping(), torch_six(), optional_faiss(), no_cython_warnings():
        for module in _MODULES:
            importlib.import_module(module)
