"""The page of config keys, from the source that adds them."""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metabin_plugin.errors import MetaBINError


class KeyReferenceError(MetaBINError):
    """A page of keys cannot be made of a source, or cannot be written."""


@dataclass(frozen=True)
class Entry:
    """Keys that share a comment.

    Attributes:
        defaults: default by dotted name.
        meaning: the comment above the first of them, in one line.
    """

    defaults: Mapping[str, Any]
    meaning: str


def read_entries(source: str, path: str) -> list[Entry]:
    """Keys of a config module, in its order.

    A key is an assignment of a literal to an attribute of ``cfg``, or of a node that the same
    function assigns to one. Its comment is what is right above it; assignments that follow each
    other line by line share the comment above the first.

    Args:
        source: the module's text.
        path: its path, for messages.

    Raises:
        KeyReferenceError: a key has no comment, or the text is no Python.
    """
    try:
        tree, comments = ast.parse(source), _comments(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise KeyReferenceError(f"{path} cannot be parsed ({error}); correct it") from error
    groups: list[tuple[str, dict[str, Any]]] = []
    previous_end = 0
    for statement, name in _assignments(tree):
        if statement.lineno != previous_end + 1 or not groups:
            groups.append((_comment_above(statement.lineno, comments), {}))
        previous_end = statement.end_lineno or statement.lineno
        if not _is_literal(statement.value):
            continue
        meaning, defaults = groups[-1]
        if not meaning:
            raise KeyReferenceError(
                f"{path}, line {statement.lineno}: {name} has no comment; write above it what it "
                "does"
            )
        defaults[name] = ast.literal_eval(statement.value)
    return [Entry(defaults, meaning) for meaning, defaults in groups if defaults]


def _assignments(tree: ast.Module) -> Iterator[tuple[ast.Assign, str]]:
    """Assignments to attributes of configs, in the order of the lines, with their dotted names."""
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        found = [s for s in ast.walk(function) if isinstance(s, ast.Assign)]
        paths = [_attribute_path(s.targets[0]) for s in found]
        # cfg.METABIN = node: what "node" stands for.
        places = {
            s.value.id: path[1:]
            for s, path in zip(found, paths, strict=True)
            if isinstance(s.value, ast.Name) and path[:1] == ["cfg"]
        }
        places["cfg"] = []
        rows = [
            (s, ".".join([*places[path[0]], *path[1:]]))
            for s, path in zip(found, paths, strict=True)
            if len(path) > 1 and path[0] in places
        ]
        yield from sorted(rows, key=lambda row: row[0].lineno)


def _attribute_path(target: ast.expr) -> list[str]:
    """``a.b.c`` as its parts; empty for anything else."""
    if isinstance(target, ast.Name):
        return [target.id]
    if isinstance(target, ast.Attribute):
        inner = _attribute_path(target.value)
        return [*inner, target.attr] if inner else []
    return []


def _is_literal(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def _comments(source: str) -> dict[int, str]:
    """Comments that have a line of their own, by its number."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokens
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }


def _comment_above(line: int, comments: Mapping[int, str]) -> str:
    first = line
    while first - 1 in comments:
        first -= 1
    return " ".join(comments[number] for number in range(first, line))


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
