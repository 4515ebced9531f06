"""Files of the repository that the installed package has too: recipes, and the demo's renderer.

In a checkout they are where they belong, beside the package; a wheel has them in ``shipped``, see
``setup.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_HOME = _PACKAGE / "shipped" if (_PACKAGE / "shipped").is_dir() else _PACKAGE.parent

RECIPES = _HOME / "configs"
RENDERER = _HOME / "projects" / "Demo"


def config_path(name: str) -> str:
    """The path of a config: a file of this name, or else the recipe of this name.

    Args:
        name: a path, or the path of a recipe from ``configs/`` on (``MetaBIN.yml``,
            ``protocols/P1-ResNet50.yml``).

    Returns:
        The name itself where there is neither.
    """
    recipe = str(RECIPES / name)
    return recipe if name and not os.path.exists(name) and os.path.isfile(recipe) else name
