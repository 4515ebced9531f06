"""How the plugin speaks to its user: every error's sentence, read from the code that raises it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from metabin_plugin.errors import MetaBINError

ROOT = Path(__file__).parents[1]
# Whose sentence goes on with another error's, which says what to do.
GOES_ON = ("{error}", "{fault}", "{_fault(path, error)}")


class Sentence(NamedTuple):
    """What an error says, with the code of what it fills in between braces."""

    place: str
    text: str


def errors_of_users(trees: dict[Path, ast.Module]) -> set[str]:
    """Names of the classes of errors, wherever a subclass is defined."""
    parents = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    known = {MetaBINError.__name__}
    while more := {name for name, bases in parents.items() if bases & known} - known:
        known |= more
    return known


def text_of(node: ast.expr) -> str | None:
    """A literal text, formatted or not; None for what is made elsewhere."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
            for part in node.values
            if isinstance(part, (ast.Constant, ast.FormattedValue))
        )
    return None


def sentences(folders: list[Path]) -> Iterator[Sentence]:
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    errors = errors_of_users(trees)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                text = text_of(node.args[0]) if node.func.id in errors else None
                if text is not None:
                    yield Sentence(f"{path.name}:{node.lineno}", text)


ALL = list(sentences([ROOT / "metabin_plugin", ROOT / "tools", ROOT / "projects"]))


def faults(text: str) -> list[str]:
    said = []
    if text.rstrip().endswith("."):
        said.append("ends with a full stop")
    if "; " not in text and not text.endswith(GOES_ON):
        said.append("does not say what to do behind a semicolon")
    if any(word in text.lower() for word in ("can't", "isn't", "doesn't", "mend", "please")):
        said.append("has a word that these sentences do without")
    return said


def test_sentences_say_what_is_wrong_and_what_to_do() -> None:
    assert len(ALL) > 200
    assert [(sentence, found) for sentence in ALL if (found := faults(sentence.text))] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('raise E(f"{key} is {value!r}; choose another")', []),
        ('raise E(f"{path}: {error}")', []),
        ('raise E(f"{key} is {value!r}; choose another.")', ["ends with a full stop"]),
        ('raise E("nothing fits")', ["does not say what to do behind a semicolon"]),
    ],
)
def test_a_sentence_without_its_parts_is_found(
    tmp_path: Path, source: str, said: list[str]
) -> None:
    (tmp_path / "module.py").write_text(f"class E(MetaBINError): pass\n{source}\n")
    (sentence,) = sentences([tmp_path])
    assert faults(sentence.text) == said
