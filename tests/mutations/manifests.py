"""Manifests with other rows, cells and forms than those that are asked for."""

from __future__ import annotations

import csv
import io
import os
import random
from collections.abc import Callable
from pathlib import Path

Rows = list[list[str]]


def change(rng: random.Random, data: bytes, path: Path, outside: Path) -> tuple[bytes, str]:
    """Change one to three cells, or the rows, the header or the form."""
    os.mkfifo(path.parent / "fifo.png")
    (path.parent / "empty.png").touch()
    rows = list(csv.reader(io.StringIO(data.decode())))
    if rng.random() < 0.6:
        said = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            row, column = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
            rows[row][column] = rng.choice(_cells(path, outside))
            said.append(f"cell {row},{column} is {rows[row][column][:40]!r}")
        return _text(rows).encode(errors="surrogateescape"), ", ".join(said)
    if rng.random() < 0.6:
        what = rng.choice(list(_ROWS))
        return _text(_ROWS[what](rng, rows)).encode(), what
    what = rng.choice(list(_FORMS))
    return _FORMS[what](_text(rows)), what


def _cells(path: Path, outside: Path) -> list[str]:
    up = f"../../{outside.name}"
    return [
        *("", " ", "-1", "0", "0000", "1e999", "9" * 400, "nan", "None", "é" * 10, "\u202egnp.exe"),
        *(
            "=1+1",
            "+1",
            "@x",
            "-x",
            '=HYPERLINK("http://x")',
            "\x1b[31mred",
            "a\rb",
            "a\nb",
            "a\0b",
        ),
        *("\udcff", "x" * 200_000, "a,b", '"', "#", "~", "$HOME", "%s", "{0}", "C:\\x.png"),
        *(str(outside / "photo.jpg"), str(outside / "notes.txt"), str(outside), f"{up}/photo.jpg"),
        *("../..", ".", "/", "/etc/passwd", "/dev/zero", "/dev/stdin", "/dev/tty", "fifo.png"),
        *("empty.png", "source0", "source0/", "source0.csv", "./source0/../source0/0_0.png"),
        *(
            "http://127.0.0.1:9/x.png",
            "file:///etc/passwd",
            "source0/0_0.png",
            "source0/" + "x" * 300,
        ),
        *("train", "query", "gallery", "test", "TRAIN", "val"),
    ]


def _text(rows: Rows, **form: str) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL, **form)  # type: ignore[arg-type]
    writer.writerows(rows)
    return file.getvalue()


def _without(rng: random.Random, rows: Rows) -> Rows:
    gone = rng.randrange(len(rows))
    return rows[:gone] + rows[gone + 1 :]


def _without_column(rng: random.Random, rows: Rows) -> Rows:
    gone = rng.randrange(len(rows[0]))
    return [row[:gone] + row[gone + 1 :] for row in rows]


def _twice(rng: random.Random, rows: Rows) -> Rows:
    return [*rows, *rng.choices(rows, k=rng.choice((1, 3, len(rows))))]


def _renamed(rng: random.Random, rows: Rows) -> Rows:
    names = ("path", "pid", "domain", "subset", "Path", "pid ", "", "\ufeffpath", "x" * 1_000)
    header = list(rows[0])
    header[rng.randrange(len(header))] = rng.choice(names)
    return [header, *rows[1:]]


def _with_column(rng: random.Random, rows: Rows) -> Rows:
    name = rng.choice(("domain", "subset", "path", "other", ""))
    values = ("", "a", "b", "train", "query", "\x1b[31m", "=1", "x" * 1_000)
    return [[*rows[0], name], *([*row, rng.choice(values)] for row in rows[1:])]


def _ragged(rng: random.Random, rows: Rows) -> Rows:
    return [row[: rng.randrange(len(row) + 1)] if rng.random() < 0.3 else row for row in rows]


def _wide(rng: random.Random, rows: Rows) -> Rows:
    return [[*row, *[""] * 10_000] for row in rows]


_ROWS: dict[str, Callable[[random.Random, Rows], Rows]] = {
    "a row is gone": _without,
    "a column is gone": _without_column,
    "rows twice": _twice,
    "a column renamed": _renamed,
    "a column more": _with_column,
    "rows of other lengths": _ragged,
    "thousands of columns": _wide,
    "no rows": lambda rng, rows: rows[:1],
    "all in another order": lambda rng, rows: rng.sample(rows, len(rows)),
    "one person": lambda rng, rows: [
        [*row[:1], "1", *row[2:]] if n else row for n, row in enumerate(rows)
    ],
    "blank lines": lambda rng, rows: [line for row in rows for line in (row, [])],
}
_FORMS: dict[str, Callable[[str], bytes]] = {
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "CR LF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "BOM": lambda text: text.encode("utf-8-sig"),
    "Latin-1": lambda text: text.replace("source", "sourcé").encode("latin-1"),
    "an open quote": lambda text: text.replace("source", '"source', 1).encode(),
    "all quoted": lambda text: "\n".join(f'"{line}"' for line in text.splitlines()).encode(),
    "a NUL": lambda text: text.replace(",", ",\0", 5).encode(),
    "an XLSX file": lambda text: b"PK\x03\x04" + text.encode(),
    "empty": lambda text: b"",
    "a million commas": lambda text: text.encode() + b"," * 1_000_000,
    "100,000 lines": lambda text: text.encode() + b"source0/0_0.png,1,1,train\n" * 100_000,
}
