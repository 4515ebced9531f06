"""YAML from elsewhere: what is read as ever, and what is refused at once."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from metabin_plugin.config.reading import MAX_BYTES, MAX_LEVELS, read_yaml, read_yaml_file

DOUBLED = "\n".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 60))
MERGED = "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 20))
CHAIN = "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "alias bomb of mappings": (f"a0: &a0 {{x: 1}}\n{DOUBLED}", "more than 100,000 values"),
    "alias bomb of lists": (
        "a0: &a0 [1]\n"
        + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)),
        "more than 100,000 values",
    ),
    "merge-key bomb": (f"a0: &a0 {{x: 1}}\n{MERGED}", "more than 100,000 values"),
    "a long text many times": (
        f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]",
        "more than 1,048,576 characters",
    ),
    "levels by aliases": (f"a0: &a0 [1]\n{CHAIN}", "levels"),
    "a list in itself": ("&a [*a]", "contains itself"),
    "a mapping in itself": ("&a {x: *a}", "contains itself"),
    "a mapping merged into itself": ("&a {<<: *a}", "contains itself"),
    "a mapping in itself by another": ("&a {x: &b {y: *a}, z: *b}", "contains itself"),
    "brackets": ("[" * 100_000, "nested too deeply"),
    "closed brackets": ("[" * 100 + "]" * 100, "levels"),
    "braces": ("{" * 100_000, "nested too deeply"),
    "pairs in braces": ("{a: " * 50_000, "nested too deeply"),
    "question marks": ("? " * 100_000, "nested too deeply"),
    "dashes": ("- " * 100_000, "nested too deeply"),
    "a long list": ("[" + "1," * 5_000_000 + "]", "more than 262,144 bytes"),
    "long bytes": (b"#" * (MAX_BYTES + 1), "more than 262,144 bytes"),
    "code": ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "another tag": ("!thing {}", "could not determine a constructor"),
    "a mapping as text": ("!!str {a: 1}", "expected a scalar"),
    "a word as truth": ("!!bool perhaps", "not YAML"),
    "a word as number": ("!!int many", "invalid literal"),
    "nothing as number": ("!!int ''", "not YAML"),
    "a word as date": ("!!timestamp soon", "not YAML"),
    "a date out of range": ("2001-02-30", "day"),
    "a month out of range": ("2001-99-01", "month"),
    "an hour out of range": ("2001-02-03 99:00:00", "hour"),
    "a time zone out of range": ("2001-02-03 00:00:00 +99:00", "offset"),
    "a long number": ("9" * 5000, "a number of 5,000 digits"),
    "a long hexadecimal number": ("0x" + "f" * 100_000, "a number of 100,002 digits"),
    "a long number to base 60": ("1:" * 100_000 + "1", "digits"),
    "a list as key": ("[1]: 2", "unhashable"),
    "bytes that are not UTF-8": (b"a: \xff", "invalid start byte"),
    "control characters": ("a: \x00", "special characters are not allowed"),
    "half a surrogate pair": ("a: \udcff", "special characters are not allowed"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "an unknown alias": ("*a", "undefined alias"),
    "a key twice": (
        "MODEL:\n  A: 1\nB: 2\nMODEL:\n  C: 3",
        "'MODEL' in line 1 and again in line 4",
    ),
    "a key twice in a node": ("A:\n  B: 1\n  'B': 1", "'B' in line 2 and again in line 3"),
    "a key twice in a list": ("A:\n- {B: 1, C: 2, B: 3}", "'B' in line 2 and again in line 2"),
    "a number twice as key": ("1: 2\n1: 2", "'1' in line 1 and again in line 2"),
    "not YAML": ("a: [", "expected"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_plain_value_is_refused_soon(fault: str) -> None:
    text, words = REFUSED[fault]
    start = time.process_time()
    with pytest.raises(ValueError) as caught:
        read_yaml(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# nothing\n", None),
        ("a: 1\nb: [2.5, x, true, ~]\n", {"a": 1, "b": [2.5, "x", True, None]}),
        ("day: 2001-02-03", {"day": datetime.date(2001, 2, 3)}),
        ("b: &b {x: 1, y: 2}\no: {<<: *b, y: 3}", {"b": {"x": 1, "y": 2}, "o": {"x": 1, "y": 3}}),
        ("[&a [1], *a]", [[1], [1]]),
        ("a: {b: 1}\nc: {b: 2}\nb: 3", {"a": {"b": 1}, "c": {"b": 2}, "b": 3}),
        ("a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: *a, <<: *b}", None),
        ("1: a\n'1': b", {1: "a", "1": "b"}),
        ("\ufeffa: ü", {"a": "ü"}),
        ("a: 日本".encode(), {"a": "日本"}),
        (b"\xef\xbb\xbfa: 1", {"a": 1}),
        ("n: " + "9" * 100, {"n": 10**100 - 1}),
        ("[" * (MAX_LEVELS - 1) + "]" * (MAX_LEVELS - 1), None),
    ],
)  # fmt: skip
def test_what_is_plain_is_read(text: str | bytes, value: Any) -> None:
    assert read_yaml(text) == (yaml.safe_load(text) if value is None else value)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.dates()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(PLAIN, st.booleans())
@example({"a": float("inf"), "b": ""}, True)
def test_what_was_dumped_is_read_as_yaml_reads_it(value: Any, flow: bool) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=flow)
    # PyYAML itself does not give back every text, "\x85" in a key for example.
    assert repr(read_yaml(text)) == repr(read_yaml(text.encode())) == repr(yaml.safe_load(text))


@given(st.text(alphabet="ab:-?[]{}&*!|>'\"<%@,#\n 01", max_size=40))
def test_any_text_is_read_as_yaml_reads_it_or_refused(text: str) -> None:
    try:
        value = read_yaml(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert repr(value) == repr(yaml.safe_load(text))


def test_a_file_is_utf_8_and_regular(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_bytes("name: straße\n".encode())
    assert read_yaml_file(path) == {"name": "straße"}
    path.write_bytes(b"a: " + b"x" * MAX_BYTES)
    with pytest.raises(ValueError, match="more than 262,144 bytes"):
        read_yaml_file(path)
    os.mkfifo(tmp_path / "pipe.yml")
    with pytest.raises(OSError, match="Not a regular file"):
        read_yaml_file(tmp_path / "pipe.yml")
    with pytest.raises(OSError, match="directory"):
        read_yaml_file(tmp_path)
