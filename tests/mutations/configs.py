"""Configs with other keys, values and syntax than fastreid's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

from tests.mutations.checkpoints import alias_bomb
from tests.mutations.trees import change_tree, plain_values

_SYNTAX = {
    "an alias bomb": lambda text, outside: alias_bomb() + text,
    "a bomb of lists": lambda text, outside: _list_bomb() + text,
    "a tag that runs code": lambda text, outside: (
        f'EVIL: !!python/object/apply:os.mkdir ["{outside}/made"]\n{text}'
    ),
    "a tag of a tuple": lambda text, outside: f"X: !!python/tuple [1, 2]\n{text}",
    "an unknown tag": lambda text, outside: f"X: !thing 3\n{text}",
    "a tag of the data set": lambda text, outside: text.replace(
        "cpu", "!!python/name:os.system cpu"
    ),
    "base of itself": lambda text, outside: f"_BASE_: config.yml\n{text}",
    "base that is text": lambda text, outside: f"_BASE_: {outside}/notes.txt\n{text}",
    "base elsewhere": lambda text, outside: f"_BASE_: {outside}/config.yaml\n{text}",
    "base that is an image": lambda text, outside: f"_BASE_: {outside}/photo.jpg\n{text}",
    "base that is a folder": lambda text, outside: f"_BASE_: {outside}\n{text}",
    "base that is a pipe": lambda text, outside: f"_BASE_: fifo\n{text}",
    "base without an end": lambda text, outside: f"_BASE_: /dev/zero\n{text}",
    "base that is a list": lambda text, outside: f"_BASE_: [a, b]\n{text}",
    "base on another machine": lambda text, outside: f"_BASE_: https://127.0.0.1:9/x.yml\n{text}",
    "two documents": lambda text, outside: f"{text}---\n{text}",
    "all twice": lambda text, outside: text + text,
    "deep nesting": lambda text, outside: f"X: {'[' * 5_000}{']' * 5_000}\n{text}",
    "deep keys": lambda text, outside: "".join(" " * n + f"a{n}:\n" for n in range(1_000)) + text,
    "a long list": lambda text, outside: f"X: [{'1, ' * 300_000}]\n{text}",
    "a long key": lambda text, outside: f"{'X' * 200_000}: 1\n{text}",
    "tabs": lambda text, outside: text.replace("  ", "\t"),
    "an anchor in itself": lambda text, outside: f"X: &x [*x]\n{text}",
    "a merge of itself": lambda text, outside: f"X: &x\n  <<: *x\n{text}",
    "a merge of text": lambda text, outside: f"X:\n  <<: text\n{text}",
    "a list": lambda text, outside: "- 1\n- 2\n",
    "a number": lambda text, outside: "3\n",
    "nothing": lambda text, outside: "",
    "a NUL": lambda text, outside: text.replace("cpu", "c\0pu"),
    "a key of a list": lambda text, outside: f"? [1, 2]\n: 3\n{text}",
    "a key of a mapping": lambda text, outside: f"? {{a: 1}}\n: 3\n{text}",
    "a binary": lambda text, outside: f"X: !!binary abc\n{text}",
    "a wrong date": lambda text, outside: f"X: 2020-99-99\n{text}",
    "a large number": lambda text, outside: f"X: {'9' * 10_000}\n{text}",
    "a number to the base 60": lambda text, outside: f"X: {'1:' * 300}1\n{text}",
}
_ENCODINGS = ("utf-16", "utf-8-sig", "latin-1", "utf-7", "utf-32")


def change(rng: random.Random, data: bytes, path: Path, outside: Path) -> tuple[bytes, str]:
    """Change the keys and values of a config, or its syntax."""
    return change_text(rng, data.decode(), path, outside)


def change_text(rng: random.Random, text: str, path: Path, outside: Path) -> tuple[bytes, str]:
    """The same of a text."""
    how = rng.random()
    if how < 0.6:
        tree, what = change_tree(rng, yaml.safe_load(text), plain_values(path, outside))
        return _dumped(tree), what
    if how < 0.95:
        what = rng.choice(list(_SYNTAX))
        return _SYNTAX[what](text, outside).encode(), what
    encoding = rng.choice(_ENCODINGS)
    return f"# é\n{text}".encode(encoding), encoding


def _dumped(tree: Any) -> bytes:
    # With aliases where a value is repeated, as any program may write it.
    return yaml.safe_dump(tree, allow_unicode=False).encode(errors="surrogatepass")


def _list_bomb() -> str:
    lines = ["b0: &b0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 8)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\n"
