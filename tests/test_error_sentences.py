"""How the plugin speaks to its user: every error's sentence, read from the code that raises it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from metabin_plugin.errors import MetaBINError

ROOT = Path(__file__).parents[1]
# Whose sentence goes on with another error's, which says what to do.
GOES_ON = ("{error}", "{fault}", "{_fault(path, error)}")


# What stands behind these words is a value, whose type a reader is to see.
VALUE = re.compile(r"\b(is|are|gave|got) \{(?P<code>.*?)\}(?=[^}]|$)")
# A text in quotes that the sentence itself puts around it looks like a value, and is none if it has
# quotes or signs that are not printed. Commands have marks of their own.
IN_QUOTES = re.compile(r"([\"'])\{[^{}]*\}\1")
# Ways to write a value as Python does beside !r. Some keep it in one line, and short.
WRITTEN = ("repr(", "shown(repr(", "shown_value(")
# Words of the sentence, and not values: "a link" for example, or how many there are.
WORDS = ("kind", "len(", "sorted(")


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
            str(part.value) if isinstance(part, ast.Constant) else placeholder(part)
            for part in node.values
            if isinstance(part, (ast.Constant, ast.FormattedValue))
        )
    return None


def placeholder(part: ast.FormattedValue) -> str:
    """The code of what is filled in, with ``!r`` where it is written as Python does."""
    return f"{{{ast.unparse(part.value)}{'!r' if part.conversion == ord('r') else ''}}}"


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
    codes = [match["code"] for match in VALUE.finditer(text)]
    if any(not code.endswith("!r") and not code.startswith(WRITTEN + WORDS) for code in codes):
        said.append("has a value that is not written as Python does")
    if IN_QUOTES.search(text):
        said.append("puts quotes around what has some of its own")
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
        (
            'raise E(f"{key} is {value}; choose another")',
            ["has a value that is not written as Python does"],
        ),
        ('raise E(f"{key} is {shown(repr(value))}, not {len(a)}; choose another")', []),
        (
            """raise E(f'{key} lists "{name}"; name another')""",
            ["puts quotes around what has some"],
        ),
    ],
)
def test_a_sentence_without_its_parts_is_found(
    tmp_path: Path, source: str, said: list[str]
) -> None:
    (tmp_path / "module.py").write_text(f"class E(MetaBINError): pass\n{source}\n")
    (sentence,) = sentences([tmp_path])
    found = faults(sentence.text)
    assert len(found) == len(said) and all(map(str.startswith, found, said))
