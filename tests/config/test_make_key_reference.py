"""The page of keys: it is what the sources say, and has all keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastreid.config import CfgNode, get_cfg

import make_key_reference
from augmining.config import add_augmining_config
from dimn.config import add_dimn_config
from metabin_plugin import add_metabin_config
from metabin_plugin.config.key_page import Entry, KeyReferenceError, read_entries, section, shown
from metabin_plugin.errors import MetaBINError

SOURCE = '''
def add_keys(cfg):
    """Docstring."""
    if "X" not in cfg:
        cfg.X = type(cfg)()
    node = type(cfg)()

    # First line,
    # and second.
    node.ONE = 1

    # Of both.
    node.PAIR = type(cfg)()
    node.PAIR.LOW = -0.5
    node.PAIR.NAMES = (
        "a",
    )

    node.PAIR_IS_COMPLETE = True  # No comment above.
    cfg.NODE = node
    unrelated = 3


def _others(cfg):
    # Elsewhere.
    cfg.X.Y = "auto"
'''
COMMENTED = SOURCE.replace("\n    node.PAIR_IS", "\n    # It has one.\n    node.PAIR_IS")


def test_the_committed_page_is_that_of_the_sources(tmp_path: Path) -> None:
    written = tmp_path / "KEYS.md"
    make_key_reference.main(["--output", str(written)])
    committed = make_key_reference.PAGE.read_text(encoding="utf-8")
    assert written.read_text(encoding="utf-8") == committed, "run tools/make_key_reference.py"


def test_every_key_is_there_with_its_default() -> None:
    cfg = CfgNode()
    for add in (add_metabin_config, add_augmining_config, add_dimn_config):
        add(cfg)
    sources = [make_key_reference.PLUGIN]
    sources += sorted((make_key_reference.ROOT / "projects").glob("*/*/config.py"))
    found = [entry for path in sources for entry in make_key_reference.entries_of(path)]
    defaults = [pair for entry in found for pair in entry.defaults.items()]
    assert sorted(map(repr, defaults)) == sorted(map(repr, make_key_reference.flat(cfg)))
    assert min(len(entry.meaning) for entry in found) > 20
    page = make_key_reference.page()
    assert [page.count(f"`{name}`") for name, _ in defaults] == [1] * len(defaults)


def test_what_the_papers_config_sets_otherwise_is_shown() -> None:
    lines = make_key_reference.page().splitlines()
    row = next(line for line in lines if "ITERS_PER_EPOCH" in line)
    assert [cell.strip() for cell in row.split("|")][1:4] == [
        "`METABIN.ITERS_PER_EPOCH`",
        f"`{get_cfg().METABIN.ITERS_PER_EPOCH}`",
        "`1849`",
    ]
    assert "| `METABIN.OUTER_LR` | `0.1` |  | gamma" in "\n".join(lines)


def test_comments_belong_to_the_keys_below_them() -> None:
    assert read_entries(COMMENTED, "x.py") == [
        Entry({"NODE.ONE": 1}, "First line, and second."),
        Entry({"NODE.PAIR.LOW": -0.5, "NODE.PAIR.NAMES": ("a",)}, "Of both."),
        Entry({"NODE.PAIR_IS_COMPLETE": True}, "It has one."),
        Entry({"X.Y": "auto"}, "Elsewhere."),
    ]


def test_a_key_without_a_comment_is_refused() -> None:
    sentence = r"^x\.py, line 19: NODE\.PAIR_IS_COMPLETE has no comment; write above it"
    with pytest.raises(KeyReferenceError, match=sentence):
        read_entries(SOURCE, "x.py")
    with pytest.raises(KeyReferenceError, match=r"^x\.py cannot be parsed"):
        read_entries("def f(:", "x.py")


def test_a_row_keeps_the_table_whole() -> None:
    entries = [Entry({"A.B": ("x",), "A.C": 2}, "x | y, *z*, <tag>")]
    text = section("A", "About.", entries, {"A.B": ("x",), "A.C": 3, "A.D": 4})
    assert text == (
        "## A\n\nAbout.\n\n"
        "| key | default | `MetaBIN.yml` | meaning |\n| --- | --- | --- | --- |\n"
        '| `A.B`<br>`A.C` | `("x",)`<br>`2` | <br>`3` | x \\| y, \\*z\\*, \\<tag> |\n'
    )
    assert "MetaBIN.yml" not in section("A", "", entries, {"A.C": 2})
    assert shown(()) == "()" and shown(("a", "b")) == '("a", "b")' and shown(False) == "False"


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MetaBINError, match=r"absent.*cannot be written"):
        make_key_reference.main(["--output", str(tmp_path / "absent" / "KEYS.md")])
