"""Changes of nested mappings and lists, as JSON, YAML and checkpoints hold them."""

from __future__ import annotations

import copy
import random
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Make = Callable[[], Any]


def plain_values(path: Path, outside: Path) -> list[Make]:
    """Values of other types and sizes than those expected, and names of files elsewhere.

    Args:
        path: the file that will hold them.
        outside: a folder that it may name, with ``notes.txt``, ``photo.jpg`` and ``model.pth``.
    """
    up = f"../../../{outside.name}"
    return [
        lambda: None,
        lambda: True,
        lambda: "",
        lambda: "text",
        lambda: "\x1b[31mred\x1b[0m\r\n\x00",
        lambda: "\ud800",
        lambda: "=1+1",
        lambda: "x" * 100_000,
        lambda: 0,
        lambda: -1,
        lambda: -5,
        lambda: 1,
        lambda: 7,
        lambda: 2**31,
        lambda: 2**62,
        lambda: 10**400,
        lambda: 1e12,
        lambda: 0.5,
        lambda: float("nan"),
        lambda: float("-inf"),
        lambda: [],
        lambda: {},
        lambda: [[]],
        lambda: [1, "two", None],
        lambda: {"key": {"key": [1]}},
        lambda: {"": None},
        lambda: list(range(20_000)),
        lambda: _deep(100),
        lambda: str(outside / "notes.txt"),
        lambda: str(outside / "photo.jpg"),
        lambda: str(outside / "model"),
        lambda: str(outside),
        lambda: f"{up}/model",
        lambda: f"{up}/photo.jpg",
        lambda: [f"{up}/model", str(outside / "model"), "model_0000"],
        lambda: ".",
        lambda: "..",
        lambda: "/dev/zero",
        lambda: "/dev/stdin",
        lambda: str(path.parent / "fifo"),
    ]


def _deep(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def change_tree(rng: random.Random, tree: Any, values: Sequence[Make]) -> tuple[Any, str]:
    """One to three changes of parts of a tree, most of them of one.

    Args:
        rng: what draws them.
        tree: dicts and lists; not changed.
        values: what makes values to put in the place of others.

    Returns:
        The changed tree, and what was done in words.
    """
    tree = copy.deepcopy(tree)
    said = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key, where = _pick(rng, tree)
        if holder is None:
            return rng.choice(values)(), "replace all"
        name = rng.choices(("replace", "delete", "rename", "move"), (6, 2, 1, 1))[0]
        if name == "replace":
            holder[key] = rng.choice(values)()
            name = f"replace by {reprlib.repr(holder[key])[:40]}"
        elif name == "delete":
            del holder[key]
        elif name == "rename" and isinstance(holder, dict):
            holder[rng.choice((f"{key}x", "", 3, None, "../x"))] = holder.pop(key)
        else:
            other, place, _ = _pick(rng, tree)
            if other is not None:
                holder[key] = copy.deepcopy(other[place])
        said.append(f"{name} {where}")
    return tree, ", ".join(said)


def _pick(rng: random.Random, tree: Any) -> tuple[Any, Any, str]:
    """A part of a tree: what holds it, its key there, and where that is."""
    holder, key, where = None, None, ""
    node = tree
    while isinstance(node, (dict, list)) and node:
        holder = node
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        where += f".{key}"
        node = node[key]
        if rng.random() < 0.3:
            break
    return holder, key, where[:80]
