"""What the package imports is declared, so that an installation brings it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# fastreid cannot be listed, as it pins a torch; faiss comes in one of two builds.
# Triton comes with PyTorch where there is one, and nothing needs it elsewhere.
# The demo's renderer is shipped with the plugin.
UNLISTED = {"fastreid", "faiss-cpu", "faiss-gpu", "triton", "demo_data"}


def imported(folder: Path) -> Iterator[str]:
    """Top-level names of all modules that a package imports, wherever in its files."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0]


def declared() -> set[str]:
    """Names of the requirements in pyproject.toml, with those of the extras for users."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[tool.")[0]
    lists = re.findall(r"^(?!dev\b)[\w-]+ = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    return {name.lower() for listed in lists for name in re.findall(r'"([\w-]+)', listed)}


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 does not know which package has which module"
)
def test_everything_that_the_package_imports_is_declared() -> None:
    distributions = packages_distributions()
    names = set(imported(ROOT / "metabin_plugin")) - set(sys.stdlib_module_names)
    needed = {name: distributions.get(name, [name]) for name in names - {"metabin_plugin"}}
    assert "yaml" in needed and "scipy" in needed
    known = declared() | UNLISTED
    undeclared = {
        name
        for name, found in needed.items()
        if not any(distribution.lower() in known for distribution in found)
    }
    assert not undeclared
