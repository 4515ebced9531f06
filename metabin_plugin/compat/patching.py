"""How fastreid is changed: each patch declares its target, the fault, and when it does nothing."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

_DECLARATION = "_metabin_plugin_patch"
_DONE = "_metabin_plugin_patches"

Change = TypeVar("Change", bound=Callable[..., Any])


@dataclass(frozen=True)
class Patch:
    """One change of fastreid.

    Attributes:
        targets: what it replaces, each ``module:name``, or ``module:class.name``; ``module`` alone
            for a change of how that module is imported.
        fault: what is wrong with it in fastreid 1.4.0.
        unless: when the patch does nothing; None if it always acts.
        change: the function or class that was declared.
    """

    targets: tuple[str, ...]
    fault: str
    unless: str | None
    change: Callable[..., Any]


def patch(*targets: str, fault: str, unless: str | None) -> Callable[[Change], Change]:
    """Declare that a function or class changes fastreid; nothing happens until it is applied.

    What it is decides how:

    - A class takes the place of a class.
    - A function takes the place of a function or method. One whose first parameter is called
      ``original`` is called with what it replaces, and then with the arguments.
    - A function whose target is a value (a dictionary, a config, a module) is called once with it,
      and returns what takes its place.
    - A context manager whose target is a module is open while that module is first imported.

    Its docstring says what it does; the page of patches shows the text before the arguments.

    Args:
        *targets: see :class:`Patch`. They need not be importable yet.
        fault: see :class:`Patch`.
        unless: see :class:`Patch`.
    """

    def declare(change: Change) -> Change:
        setattr(change, _DECLARATION, Patch(targets, fault, unless, change))
        return change

    return declare


def patches_of(module: ModuleType) -> list[Patch]:
    """The patches that a module declares, in the order of its text."""
    declared = (getattr(value, "__dict__", {}).get(_DECLARATION) for value in vars(module).values())
    return [found for found in declared if found and found.change.__module__ == module.__name__]


def apply(patches: Iterable[Patch]) -> None:
    """Change fastreid, in this process; each patch changes each of its targets once.

    Several may have the same target: the later one gets what the earlier one made of it.

    Args:
        patches: those of imports first, as the others import what they change.
    """
    patches = list(patches)
    with ExitStack() as blocks:
        modules = []
        for declared in patches:
            pending = [t for t in declared.targets if ":" not in t and t not in sys.modules]
            if pending:
                blocks.enter_context(declared.change())
                modules += pending
        for module in modules:
            importlib.import_module(module)
    for declared in patches:
        for target in declared.targets:
            if ":" in target:
                _replace(target, declared.change)


def _replace(target: str, change: Callable[..., Any]) -> None:
    module_name, path = target.split(":")
    module = importlib.import_module(module_name)
    # By name, so that it also holds for a patch whose module was loaded anew.
    done = vars(module).setdefault(_DONE, set())
    entry = (path, change.__module__, change.__qualname__)
    if entry in done:
        return
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, module)
    original = inspect.getattr_static(owner, name)
    replacement = _replacement(original, change)
    setattr(owner, name, replacement)
    if owner is module and str(getattr(original, "__module__", "")).startswith("fastreid."):
        _replace_everywhere(original, replacement)
    done.add(entry)


def _replacement(original: Any, change: Callable[..., Any]) -> Any:
    if isinstance(original, (staticmethod, classmethod)):
        return type(original)(_replacement(original.__func__, change))
    if isinstance(change, type):
        return change
    if not callable(original):
        return change(original)
    if next(iter(inspect.signature(change).parameters), None) != "original":
        return change

    @functools.wraps(original)
    def changed(*args: Any, **kwargs: Any) -> Any:
        return change(original, *args, **kwargs)

    return changed


def _replace_everywhere(original: object, replacement: object) -> None:
    """Replace what a module of fastreid defines in all modules and registries that hold it too.

    ``from x import f`` copies the reference, so that changing ``x.f`` alone leaves copies behind.
    """
    from fastreid.utils.registry import Registry

    for name, module in list(sys.modules.items()):
        if name != "fastreid" and not name.startswith("fastreid."):
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, replacement)
            elif isinstance(value, Registry):
                entries = value._obj_map
                entries.update({key: replacement for key in entries if entries[key] is original})
