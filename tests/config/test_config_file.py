"""Reading a config: names on the command line."""

from __future__ import annotations

import pytest

from metabin_plugin.engine import read_config
from metabin_plugin.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("shop.csv", ("shop.csv",)),
        ('("shop.csv")', ("shop.csv",)),
        ('("shop.csv",)', ("shop.csv",)),
        ("north.csv,south.csv", ("north.csv", "south.csv")),
        ("my photos/a b.csv, c.csv", ("my photos/a b.csv", "c.csv")),
        ('["a.csv", "b.csv"]', ("a.csv", "b.csv")),
        ("()", ()),
    ],
)
def test_names_need_no_brackets(typed: str, names: tuple[str, ...]) -> None:
    cfg = read_config("", ["DATASETS.NAMES", typed])
    assert names == cfg.DATASETS.NAMES


def test_other_keys_are_read_as_ever() -> None:
    options = ["MODEL.WEIGHTS", "a,b.pth", "SOLVER.STEPS", "[3, 5]", "SOLVER.BASE_LR", "1.0"]
    cfg = read_config("", options)
    assert (cfg.MODEL.WEIGHTS, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR) == ("a,b.pth", [3, 5], 1)


def test_numbers_need_no_decimal_point() -> None:
    rate = read_config("", ["SOLVER.BASE_LR", "1"]).SOLVER.BASE_LR
    assert (rate, type(rate)) == (1, float)


@pytest.mark.parametrize(
    ("key", "typed"), [("SOLVER.BASE_LR", "True"), ("SOLVER.MAX_EPOCH", "2.5")]
)
def test_a_value_of_another_type_is_named_with_one_that_fits(key: str, typed: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"{key} is {typed}, but takes a (float|int), as [\d.]+ is;"
    ):
        read_config("", [key, typed])


@pytest.mark.parametrize(
    "value",
    [
        "(" * 5000,
        "[" * 100_000,
        "-" * 100_000 + "1",
        "1+" * 100_000 + "1",
        "not " * 50_000,
        "x()" * 9999,
    ],
)
def test_a_text_that_no_parser_bears_is_a_text(value: str) -> None:
    assert value == read_config("", ["MODEL.WEIGHTS", value]).MODEL.WEIGHTS
    with pytest.raises(ConfigError, match="correct the file or the KEY VALUE pairs") as caught:
        read_config("", ["SOLVER.MAX_EPOCH", value])
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "[3, 0x" + "f" * 5000 + "]"])
def test_a_number_of_thousands_of_digits_is_refused(value: str) -> None:
    for key in ("SOLVER.MAX_EPOCH", "SOLVER.STEPS"):
        with pytest.raises(ConfigError, match="correct the file or the KEY VALUE pairs") as caught:
            read_config("", [key, value])
        assert len(str(caught.value)) < 800


@pytest.mark.parametrize("options", [["DATASETS.NAMES"], ["DATASETS.NAMES", "3"], ["X.Y", "a"]])
def test_what_cannot_be_read_is_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="correct the file or the KEY VALUE pairs"):
        read_config("", options)
