"""How a repair replaces a name of fastreid: once, and wherever it was imported by name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

_REPAIRS = "_metabin_plugin_repairs"


def rebind(original: object, replacement: object) -> None:
    """Replace a function or class in every loaded fastreid module that holds it.

    ``from x import f`` copies the reference, so changing ``x.f`` alone leaves the copies behind.
    A second call finds nothing left to replace.

    Args:
        original: The object to look for, by identity.
        replacement: What takes its place.
    """
    for name, module in list(sys.modules.items()):
        if name != "fastreid" and not name.startswith("fastreid."):
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, replacement)


def repair(
    owner: type | ModuleType, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Replace a function of a module, or a method of a class, by one made from it, once.

    Args:
        owner: The fastreid module or class that defines the function.
        name: The function's name there.
        make: Takes the function as it is, returns the repaired one. Several may repair the same
            function, one around the other; each is called once.
    """
    original = getattr(owner, name)
    done = getattr(original, _REPAIRS, ())
    if make in done:
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, _REPAIRS, (*done, make))
    if isinstance(owner, ModuleType):
        rebind(original, replacement)
    else:
        setattr(owner, name, replacement)
