"""Tables of config keys: nodes made of them, and what each kind of rule lets pass."""

from __future__ import annotations

from typing import Any

import pytest
from fastreid.config import CfgNode, get_cfg

from augmining.config import KEYS as AUGMINING_KEYS
from dimn.config import KEYS as DIMN_KEYS
from metabin_plugin import add_metabin_config
from metabin_plugin.config.keys import KEYS
from metabin_plugin.config.table import (
    Choice,
    Count,
    Key,
    Names,
    Number,
    Numbers,
    Registered,
    Rule,
    add_keys,
    check_keys,
    check_types,
)
from metabin_plugin.errors import ConfigError
from metabin_plugin.norm import NORM_FORMS
from metabin_plugin.registries import HOOK_REGISTRY

TABLE = (
    Key("NODE.ONE", 1, Count(0), comment="The first."),
    Key("NODE.INNER.SWITCH", False, comment="The second."),
    Key("OTHER.NAME", "a", Choice(("a", "b")), comment="The third."),
)


def test_nodes_are_made_of_a_table() -> None:
    cfg = CfgNode()
    add_keys(cfg, TABLE)
    assert cfg == {"NODE": {"ONE": 1, "INNER": {"SWITCH": False}}, "OTHER": {"NAME": "a"}}
    assert {type(node) for node in (cfg.NODE, cfg.NODE.INNER, cfg.OTHER)} == {CfgNode}


def test_what_is_there_is_kept() -> None:
    cfg = CfgNode({"NODE": {"ONE": 7, "OWN": 3}, "OTHER": {"NAME": "b"}})
    add_keys(cfg, TABLE)
    kept = {"NODE": {"ONE": 7, "OWN": 3, "INNER": {"SWITCH": False}}, "OTHER": {"NAME": "b"}}
    assert cfg == kept
    cfg.freeze()
    add_keys(cfg, TABLE)
    assert cfg == kept


def test_a_frozen_config_gets_nothing() -> None:
    cfg = CfgNode()
    cfg.freeze()
    with pytest.raises(AttributeError, match="NODE"):
        add_keys(cfg, TABLE)
    assert not cfg


def test_keys_are_checked_by_their_own_rules() -> None:
    cfg = CfgNode()
    add_keys(cfg, TABLE)
    check_keys(cfg, TABLE)
    cfg.OTHER.NAME = "c"
    with pytest.raises(ConfigError, match=r"^OTHER\.NAME is 'c'; choose among a, b$"):
        check_keys(cfg, TABLE)


@pytest.mark.parametrize("table", [KEYS, AUGMINING_KEYS, DIMN_KEYS], ids=["plugin", "A", "D"])
def test_every_default_is_allowed_and_every_key_named_once(table: tuple[Key, ...]) -> None:
    cfg = CfgNode()
    add_keys(cfg, table)
    check_types(cfg, cfg)
    check_keys(cfg, table)
    names = [key.name for key in table]
    assert len(set(names)) == len(names)
    assert all(key.allowed for key in table)
    # A number or name that cannot be wrong is one that nobody has thought about.
    assert all(key.rule or isinstance(key.default, bool) for key in table)


def test_a_config_of_an_earlier_version_gets_the_keys_it_lacks() -> None:
    cfg = get_cfg()
    cfg.METABIN.OUTER_LR = 0.3
    del cfg.METABIN["NORM_FORM"], cfg.SOLVER["CHECKPOINT_ITERS"]
    add_metabin_config(cfg)
    assert (cfg.METABIN.OUTER_LR, cfg.METABIN.NORM_FORM) == (0.3, "auto")
    assert cfg.SOLVER.CHECKPOINT_ITERS == 0


def test_norm_forms_are_those_of_the_layer() -> None:
    rule = next(key.rule for key in KEYS if key.name == "METABIN.NORM_FORM")
    assert rule == Choice(NORM_FORMS)


RULES: list[tuple[Rule, list[Any], dict[str, list[Any]]]] = [
    (Choice(("a", "b")), ["a", "b"], {"choose among a, b": ["c", "", "A"]}),
    (Choice(lambda: ["a"]), ["a"], {"choose among a": ["b"]}),
    (Choice({"a": 1}), ["a"], {"choose among a": [1, [], None]}),
    (
        Names(("a", "b")),
        [(), ["b", "a"]],
        {"choose among a, b": [("c",), (1,), ("a", ["b"])], "has 'a' twice": [("a", "b", "a")]},
    ),
    (Names(), [(), ["x", "y"]], {"has 3; list names only": [(3,)], "'x' twice": [["x", "x"]]}),
    (Names(("a",), needs_one=True), [("a",)], {"empty; name at least one of a$": [(), []]}),
    (
        Names(("a",), needs_one=True, otherwise="stop"),
        [("a",)],
        {"empty; name at least one of a, or stop$": [()]},
    ),
    (Count(1, 3), [1, 3], {"at least 1 and at most 3": [0, 4, 10**400], "whole": [1.5, True]}),
    (Count(0), [0, 2**31 - 1], {"at least 0 and at most 2147483647": [-1, 2**31]}),
    (Number(0), [0, 1e300, 5], {"at least 0$": [-1e-9], "finite": [float("nan"), float("inf")]}),
    (Number(0.5, 1), [0.5, 1], {"at least 0.5 and at most 1$": [0.4, 1.1, 10**400]}),
    (
        Numbers(2, above=0),
        [[1, 2.5], (1e-9, 3)],
        {
            "give it 2 finite numbers above 0$": [
                [1],
                [0, 1],
                [1, "a"],
                [1, float("nan")],
                [1e39, 1],
            ]
        },
    ),
    (Numbers(1), [[-5]], {"give it 1 finite numbers$": [[float("inf")], [None], []]}),
]


@pytest.mark.parametrize(("rule", "good", "bad"), RULES, ids=lambda part: type(part).__name__)
def test_a_rule_lets_pass_what_it_names(
    rule: Rule, good: list[Any], bad: dict[str, list[Any]]
) -> None:
    for value in good:
        rule.check("A.KEY", value)
    for words, values in bad.items():
        for value in values:
            with pytest.raises(ConfigError, match=rf"^A\.KEY .*{words}") as caught:
                rule.check("A.KEY", value)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Choice(("a", "b")), '"a", "b"'),
        (Choice(Registered("HOOK_REGISTRY")), "names in HOOK_REGISTRY"),
        (Names(("a", "b"), needs_one=True), '"a", "b", at least one'),
        (Names(), "names"),
        (Count(-1, 5), "-1 to 5"),
        (Count(1), "1 or more"),
        (Number(0), "0 or more"),
        (Number(0, 3.4028e38), "0 to 3.4e+38"),
        (Numbers(3, above=0), "3 finite numbers above 0"),
    ],
)
def test_a_rule_says_what_it_allows(rule: Rule, words: str) -> None:
    assert rule.allowed == words


def test_a_name_counts_from_when_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Choice(Registered("HOOK_REGISTRY"))
    with pytest.raises(ConfigError, match="choose among"):
        rule.check("A.KEY", "LaterHook")
    monkeypatch.setitem(HOOK_REGISTRY._obj_map, "LaterHook", object)
    rule.check("A.KEY", "LaterHook")
