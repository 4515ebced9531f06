"""Configs are read as fastreid reads them, without what a hostile one does to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fastreid.config import CfgNode, get_cfg

from metabin_plugin.engine import read_config
from metabin_plugin.errors import ConfigError
from tests.processes import ROOT

BOMB = "a: &a [1, 2]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{former}'] * 9)}]"
    for former, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


def test_bases_are_merged_from_the_last_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    files = {
        "own.yml": "_BASE_: sub/middle.yml\nSOLVER: {MAX_EPOCH: 3, STEPS: [1]}\nOUTPUT_DIR: own\n",
        "sub/middle.yml": "_BASE_: ~/home.yml\nSOLVER: {MAX_EPOCH: 2, BASE_LR: 0.2}\n",
        "home/home.yml": f"_BASE_: {tmp_path}/root.yml\nSOLVER: {{STEPS: [5, 6], GAMMA: 0.3}}\n",
        "root.yml": "SOLVER: {MAX_EPOCH: 0, WARMUP_ITERS: 7}\nOUTPUT_DIR: r\nMODEL: {DEVICE: c}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert CfgNode.load_yaml_with_base(str(tmp_path / "own.yml")) == {
        "SOLVER": {"MAX_EPOCH": 3, "STEPS": [1], "BASE_LR": 0.2, "GAMMA": 0.3, "WARMUP_ITERS": 7},
        "OUTPUT_DIR": "own",
        "MODEL": {"DEVICE": "c"},
    }
    monkeypatch.chdir(tmp_path / "sub")
    cfg = get_cfg()
    cfg.merge_from_file("middle.yml")
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.STEPS, cfg.OUTPUT_DIR) == (2, [5, 6], "r")


@pytest.mark.parametrize("name", ["own.yml", "MetaBIN-demo.yml"])
def test_a_base_can_be_the_name_of_a_recipe(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("_BASE_: MetaBIN-demo.yml\nSOLVER: {MAX_EPOCH: 7}\n")
    found, recipe = (
        CfgNode.load_yaml_with_base(str(path))
        for path in (tmp_path / name, ROOT / "configs" / "MetaBIN-demo.yml")
    )
    assert found["SOLVER"].pop("MAX_EPOCH") == 7
    recipe["SOLVER"].pop("MAX_EPOCH", None)
    assert found == recipe


def test_a_file_of_the_name_of_a_recipe_comes_before_it(tmp_path: Path) -> None:
    (tmp_path / "own.yml").write_text("_BASE_: MetaBIN-demo.yml\n")
    (tmp_path / "MetaBIN-demo.yml").write_text("OUTPUT_DIR: there\n")
    assert CfgNode.load_yaml_with_base(str(tmp_path / "own.yml")) == {"OUTPUT_DIR": "there"}


def test_a_config_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    # As editors write it, with and without a mark at its start.
    for name, start in (("plain.yml", b""), ("marked.yml", b"\xef\xbb\xbf")):
        (tmp_path / name).write_bytes(start + "OUTPUT_DIR: straße/日本\n".encode())
    script = (
        "import locale, metabin_plugin; metabin_plugin.register()\n"
        "from fastreid.config import get_cfg\n"
        "print(locale.getpreferredencoding(False))\n"
        "for name in ('plain.yml', 'marked.yml'):\n"
        "    cfg = get_cfg(); cfg.merge_from_file(name); print(ascii(cfg.OUTPUT_DIR))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    encoding, *names = done.stdout.split()
    assert encoding.lower() not in ("utf-8", "utf8")
    assert names == [ascii("straße/日本")] * 2


FAULTS = {
    "alias bomb": (BOMB, "more than 100,000 values"),
    "long list": ("a: [" + "1," * 200_000 + "]", "more than 262,144 bytes"),
    "code": ("OUTPUT_DIR: !!python/object/apply:os.mkdir [run]", "could not determine"),
    "itself": ("_BASE_: own.yml", "leads back to itself"),
    "no mapping": ("[1, 2]", "no KEY: VALUE mapping"),
    "nothing": ("", "no KEY: VALUE mapping"),
    "a number as base": ("_BASE_: 3", "is 3; give the path of a file"),
    "nothing as base": ("_BASE_:", "is None; give the path of a file"),
    "a URL as base": ("_BASE_: https://example.org/x.yml", "give the path of a file"),
    "a pipe as base": (
        "_BASE_: pipe",
        "pipe, the _BASE_ of own.yml, cannot be read (Not a regular file)",
    ),
    "a device as base": (
        "_BASE_: /dev/zero",
        "/dev/zero, the _BASE_ of own.yml, cannot be read (Not a regular file)",
    ),
    "a folder as base": ("_BASE_: .", "cannot be read (Is a directory)"),
    "a section twice": (
        "SOLVER: {MAX_EPOCH: 3}\nTEST: {EVAL_PERIOD: 3}\nSOLVER: {BASE_LR: 0.1}",
        "own.yml cannot be read (the key 'SOLVER' in line 1 and again in line 3)",
    ),
    "no base": (
        "_BASE_: absent.yml",
        "absent.yml, the _BASE_ of own.yml, cannot be read (No such file",
    ),
    "keys below a value of the base": ("_BASE_: base.yml\nA: {B: 1}", "A is 1 in a _BASE_"),
    "escapes": ('_BASE_: "\\e[2J"', r"\x1b[2J"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hostile_config_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    text, words = FAULTS[fault]
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("base.yml").write_text("A: 1")
    Path("own.yml").write_text(text)
    for unsafe in (False, True):
        with pytest.raises(ConfigError) as caught:
            get_cfg().merge_from_file("own.yml", allow_unsafe=unsafe)
        assert words in str(caught.value)
        assert "own.yml" in str(caught.value) or "base.yml" in text
        assert str(caught.value).isprintable() and len(str(caught.value)) < 800
    with pytest.raises(ConfigError):
        read_config("own.yml", [])
    assert not Path("run").exists()


@pytest.mark.parametrize("value", ["[" * 9999, "(" * 9999, "-" * 9999 + "1", "1+" * 9999 + "1"])
def test_a_text_that_no_parser_bears_is_a_text_in_a_file_too(tmp_path: Path, value: str) -> None:
    path = tmp_path / "own.yml"
    path.write_text(yaml.safe_dump({"OUTPUT_DIR": value}))
    assert value == read_config(str(path), []).OUTPUT_DIR
    path.write_text(yaml.safe_dump({"SOLVER": {"MAX_EPOCH": value}}))
    with pytest.raises(ConfigError, match=r"MAX_EPOCH is .*, but takes a whole number"):
        read_config(str(path), [])


def test_values_are_read_as_yacs_reads_them(tmp_path: Path) -> None:
    (tmp_path / "own.yml").write_text(
        "DATASETS: {NAMES: \"('a','b')\"}\nINPUT: {SIZE_TEST: '[8, 4]'}"
    )
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "own.yml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SOLVER.STEPS", "[3, 5]"])
    assert cfg.DATASETS.NAMES == ("a", "b") and cfg.INPUT.SIZE_TEST == [8, 4]
    assert cfg.SOLVER.STEPS == [3, 5] and cfg.MODEL.DEVICE == "cpu"


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
        # What a shell leaves of '("a.csv", "b.csv",)' between double quotes.
        ("(a.csv, b.csv,)", ("a.csv", "b.csv")),
        ("(a.csv,)", ("a.csv",)),
        ("[a.csv]", ("a.csv",)),
        ("a.csv,", ("a.csv",)),
        ("[old] a.csv,(new) b.csv", ("[old] a.csv", "(new) b.csv")),
    ],
)
def test_names_need_no_brackets(typed: str, names: tuple[str, ...]) -> None:
    cfg = read_config("", ["DATASETS.NAMES", typed])
    assert names == cfg.DATASETS.NAMES


@pytest.mark.parametrize("key", ["MODEL.FREEZE_LAYERS", "KD.MODEL_CONFIG", "KD.MODEL_WEIGHTS"])
def test_names_of_fastreids_lists_need_no_brackets_either(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    (tmp_path / "own.yml").write_text(f"{section}: {{{name}: [former]}}")
    for config in ("", str(tmp_path / "own.yml")):
        for typed, names in (("a", ["a"]), ("a,b/c d", ["a", "b/c d"]), ("['a']", ["a"])):
            assert read_config(config, [key, typed])[section][name] == names


@pytest.mark.parametrize("key", ["INPUT.SIZE_TRAIN", "MODEL.PIXEL_MEAN", "SOLVER.STEPS"])
def test_names_are_no_numbers(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is 128x64, but takes a list, like "):
        read_config("", [key, "128x64"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("METABIN:", "METABIN is None, but it is a section"),
        ("METABIN: camera", "METABIN is camera, but it is a section"),
        ("MODEL: {LOSSES: [1]}", "MODEL.LOSSES is [1], but it is a section"),
        ("OUTPUT_DIR: {A: 1}", "OUTPUT_DIR is A: 1, but takes a text, like logs/"),
    ],
)
def test_sections_and_values_are_told_apart(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "own.yml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(str(tmp_path / "own.yml"), [])
    assert words in str(caught.value) and "class" not in str(caught.value)


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
        ConfigError,
        match=rf"^KEY VALUE pairs {key} {typed}: {key} is {typed}, but takes a (whole )?number, "
        r"like [\d.]+;",
    ):
        read_config("", [key, typed])


@pytest.mark.parametrize("typed", ["2024", "1e3", "0", "(a)", "[b]", "'quoted'"])
def test_a_text_needs_no_quotes(typed: str) -> None:
    """A folder may have the name of a number."""
    assert typed.strip("'") == read_config("", ["OUTPUT_DIR", typed]).OUTPUT_DIR


def test_values_of_an_alias_are_changed_apart(tmp_path: Path) -> None:
    (tmp_path / "base.yml").write_text(
        "METABIN: {ALIGNMENT: &weight {SCALE: 2.0}, UNIFORMITY: *weight}\n"
    )
    (tmp_path / "own.yml").write_text("_BASE_: base.yml\nMETABIN: {ALIGNMENT: {SCALE: 3.0}}\n")
    node = read_config(str(tmp_path / "own.yml"), []).METABIN
    assert (node.ALIGNMENT.SCALE, node.UNIFORMITY.SCALE) == (3.0, 2.0)


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


@pytest.mark.parametrize("options", [["DATASETS.NAMES", "3"], ["X.Y", "a"]])
def test_what_cannot_be_read_is_refused(options: list[str]) -> None:
    with pytest.raises(ConfigError, match="correct the file or the KEY VALUE pairs"):
        read_config("", options)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        # What a command line of other tools looks like.
        ("shop.yml", "; give --config-file shop.yml"),
        ("SOLVER.OPT Adam shop.YAML OUTPUT_DIR x", "; give --config-file shop.YAML"),
        ("logs/a/model_final.pth", "; give MODEL.WEIGHTS logs/a/model_final.pth"),
        ("OUTPUT_DIR=logs/a", "; give OUTPUT_DIR logs/a"),
        ("SOLVER.OPT Adam OUTPUT_DIR=a=b SOLVER.BASE_LR=1", "; give OUTPUT_DIR a=b"),
        ("OUTPUT_DIR", "end on 'OUTPUT_DIR', which has no value; add it"),
        ("OUTPUT_DIR my logs", "end on 'logs', which has no value; add it, or take out the word"),
        ("SOLVER.MAX_EPOCHS 3", "SOLVER.MAX_EPOCHS (did you mean SOLVER.MAX_EPOCH?); correct"),
        ("SOLVR.OPT Adam", "SOLVR.OPT (did you mean SOLVER.OPT?); correct"),
        ("X.Y 3", "Non-existent key: X.Y; correct"),
    ],
)
def test_words_that_are_no_pairs_are_answered_by_what_was_meant(words: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(advice)):
        read_config("", words.split())


@pytest.mark.parametrize(
    ("text", "like"), [("SOLVR: {OPT: Adam}", "SOLVER"), ("SOLVER: {OPTS: Adam}", "SOLVER.OPT")]
)
def test_a_key_that_a_file_misspells_is_answered_by_the_right_one(
    tmp_path: Path, text: str, like: str
) -> None:
    (tmp_path / "own.yml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"(did you mean {like}?); correct the file")):
        read_config(str(tmp_path / "own.yml"), [])


def test_values_may_look_like_files_and_pairs() -> None:
    words = ["MODEL.WEIGHTS", "a.pth", "OUTPUT_DIR", "SOLVER.OPT=x.yml"]
    assert read_config("", words).OUTPUT_DIR == "SOLVER.OPT=x.yml"
