"""fastreid's Cython ranking, built outside the installed fastreid, which stays as it is."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MODULE = "rank_cy"
# fastreid's own setup.py needs distutils, which Python 3.12 has no more.
_BUILD = f"""
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

extension = Extension("{_MODULE}", ["{_MODULE}.pyx"], include_dirs=[numpy.get_include()])
setup(name="{_MODULE}", ext_modules=cythonize([extension], language_level=2))
"""


def build_cython(folder: Path) -> bool:
    """Build the extension.

    Args:
        folder: an empty folder.

    Returns:
        Whether Cython, setuptools and a compiler were there to do it.
    """
    from fastreid.evaluation import rank_cylib

    source = Path(rank_cylib.__file__).parent / f"{_MODULE}.pyx"
    shutil.copy(source, folder)
    (folder / "setup.py").write_text(_BUILD, encoding="utf-8")
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def load_cython(folder: Path) -> Callable[..., Any]:
    """The ranking function of an extension that ``build_cython`` built."""
    (library,) = (p for p in folder.glob(f"{_MODULE}.*") if p.suffix in (".so", ".pyd"))
    spec = importlib.util.spec_from_file_location(_MODULE, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.evaluate_cy
