"""Files of the repository that the installed package has too: recipes, and the demo's renderer.

In a checkout they are where they belong, beside the package; a wheel has them in ``shipped``, see
``setup.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_HOME = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent

RECIPES = _HOME / "configs"
RENDERER = _HOME / "projects" / "Demo"


def recipe_path(name: str) -> str:
    """The path of a recipe.

    Args:
        name: its path from ``configs/`` on (``MetaBIN.yml``, ``protocols/P1-ResNet50.yml``).

    Returns:
        "" where there is no recipe of this name.
    """
    recipe = str(RECIPES / name)
    return recipe if name and os.path.isfile(recipe) else ""


def config_path(name: str) -> str:
    """The path of a config: a file of this name, or else the recipe of this name.

    Args:
        name: a path, or what ``recipe_path`` takes.

    Returns:
        The name itself where there is neither.
    """
    return name if os.path.exists(name) else recipe_path(name) or name
