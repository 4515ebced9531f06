"""The page of keys: a table for each node of the config."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from key_reference.source import Entry


def section(title: str, about: str, entries: Sequence[Entry], recipe: Mapping[str, Any]) -> str:
    """A heading, a sentence and a table.

    Args:
        title: the heading.
        about: Markdown below it; may be empty.
        entries: the rows.
        recipe: what a config sets, by dotted name; where it differs from the default it is shown
            in a column of its own, which is left out of the table when it would be empty.

    Returns:
        Markdown that ends with a newline.
    """
    changed = {
        name: recipe[name]
        for entry in entries
        for name, default in entry.defaults.items()
        if name in recipe and recipe[name] != default
    }
    header = ["key", "default", *(["`MetaBIN.yml`"] if changed else []), "meaning"]
    rows = [header, ["---"] * len(header)]
    for entry in entries:
        cells = [
            "<br>".join(f"`{name}`" for name in entry.defaults),
            "<br>".join(f"`{shown(default)}`" for default in entry.defaults.values()),
        ]
        if changed:
            own = [f"`{shown(changed[n])}`" if n in changed else "" for n in entry.defaults]
            cells.append("<br>".join(own) if any(own) else "")
        rows.append([*cells, _escaped(entry.meaning)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join(filter(None, [f"## {title}", about, table])) + "\n"


def shown(value: Any) -> str:
    """A value as one writes it in Python, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        inner = ", ".join(map(shown, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _escaped(text: str) -> str:
    for sign in ("|", "*", "<"):
        text = text.replace(sign, f"\\{sign}")
    return text
