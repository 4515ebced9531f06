"""The page of keys: it is what the tables say, and has all keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastreid.config import CfgNode, get_cfg

import make_reference_pages
from augmining.config import add_augmining_config
from dimn.config import add_dimn_config
from make_reference_pages import section, shown
from metabin_plugin import add_metabin_config
from metabin_plugin.config.keys import KEYS
from metabin_plugin.config.table import Choice, Key, Number
from metabin_plugin.errors import MetaBINError


def test_the_committed_page_is_that_of_the_tables(tmp_path: Path) -> None:
    keys, patches = tmp_path / "KEYS.md", tmp_path / "PATCHES.md"
    make_reference_pages.main(["--keys", str(keys), "--patches", str(patches)])
    committed = make_reference_pages.KEY_PAGE.read_text(encoding="utf-8")
    assert keys.read_text(encoding="utf-8") == committed, "run tools/make_reference_pages.py"
    assert patches.read_text(encoding="utf-8") == make_reference_pages.patch_page()


def test_every_key_is_there_with_its_default() -> None:
    cfg = CfgNode()
    for add in (add_metabin_config, add_augmining_config, add_dimn_config):
        add(cfg)
    keys = [
        *KEYS,
        *(key for table in make_reference_pages.project_tables().values() for key in table),
    ]
    defaults = [(key.name, key.default) for key in keys]
    assert sorted(map(repr, defaults)) == sorted(map(repr, make_reference_pages.flat(cfg)))
    assert min(len(key.comment) for key in keys) > 20
    page = make_reference_pages.key_page()
    assert [page.count(f"| `{name}` |") for name, _ in defaults] == [1] * len(defaults)


def test_what_the_papers_config_sets_otherwise_is_shown() -> None:
    lines = make_reference_pages.key_page().splitlines()
    row = next(line for line in lines if "ITERS_PER_EPOCH" in line)
    assert [cell.strip() for cell in row.split("|")][1:4] == [
        "`METABIN.ITERS_PER_EPOCH`",
        f"`{get_cfg().METABIN.ITERS_PER_EPOCH}`",
        "`1849`",
    ]
    row = next(line for line in lines if "METABIN.OUTER_LR" in line)
    assert [cell.strip() for cell in row.split("|")][2:4] == ["`0.1`", ""]
    assert " gamma " in row


def test_a_row_keeps_the_table_whole() -> None:
    keys = [
        Key("A.B", ("x",), comment="x | y, *z*, <tag>"),
        Key("A.C", 2, Number(0, 5), comment="Of both.", symbol="c|d"),
        Key("A.D", True, comment="No more."),
    ]
    text = section("A", "About.", keys, {"A.B": ("x",), "A.C": 3, "A.E": 4})
    assert text == (
        "## A\n\nAbout.\n\n"
        "| key | default | `MetaBIN.yml` | allowed | symbol | meaning |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        '| `A.B` | `("x",)` |  | a list |  | x \\| y, \\*z\\*, \\<tag> |\n'
        "| `A.C` | `2` | `3` | 0 to 5 | c\\|d | Of both. |\n"
        "| `A.D` | `True` |  | True or False |  | No more. |\n"
    )
    plain = section("A", "", [Key("A.B", "x", Choice(("x", "y")), comment="One.")], {"A.B": "x"})
    assert plain.splitlines()[2:] == [
        "| key | default | allowed | meaning |",
        "| --- | --- | --- | --- |",
        '| `A.B` | `"x"` | "x", "y" | One. |',
    ]
    assert shown(()) == "()" and shown(("a", "b")) == '("a", "b")' and shown(False) == "False"


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MetaBINError, match=r"absent.*cannot be written"):
        make_reference_pages.main(["--keys", str(tmp_path / "absent" / "KEYS.md")])
