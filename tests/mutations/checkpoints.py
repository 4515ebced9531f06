"""Checkpoints with other content than a run writes, whole and with right checksums."""

from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.mutations.raw import change_bytes
from tests.mutations.trees import Make, change_tree, plain_values


class _RunsCode:
    """Pickles as a call of a function of the operating system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class _ForeignMemory:
    """Pickles as an array of objects, the addresses of which are numbers in the file."""

    def __reduce__(self) -> tuple[Any, ...]:
        state = (1, (4,), _ObjectsAsBytes(), False, b"\x41" * 32)
        return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), state


class _ObjectsAsBytes:
    """Pickles as a dtype with a field of objects, without the flag that says so."""

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {"field": (np.dtype(object), 0)}
        return np.dtype, ("V8", False, True), (3, "|", None, ("field",), fields, 8, 1, 0)


def change(rng: random.Random, data: bytes, path: Path, outside: Path) -> tuple[bytes, str]:
    """Change the values of a checkpoint, its pickled program or its archive."""
    how = rng.random()
    if how < 0.7:
        content = torch.load(io.BytesIO(data), weights_only=False)
        content, what = change_tree(rng, content, _values(path, outside))
        # Of before PyTorch 1.6, which has no checksums.
        old = rng.random() < 0.1
        return _saved(content, not old), f"{what}{' in the old format' if old else ''}"
    if how < 0.85:
        return _change_program(rng, data)
    if how < 0.92:
        return _change_archive(rng, data, outside)
    return data, _change_folder(rng, path.parent, outside)


def _values(path: Path, outside: Path) -> list[Make]:
    return [
        *plain_values(path, outside),
        lambda: torch.zeros(3),
        lambda: torch.zeros(0),
        lambda: torch.full((2, 2), float("nan")),
        lambda: torch.zeros(2, 2, dtype=torch.complex64),
        lambda: torch.zeros(5, dtype=torch.uint8),
        lambda: torch.zeros(1).expand(10**9),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.zeros(2, requires_grad=True),
        lambda: torch.empty(2, 10**6, device="meta"),
        lambda: np.zeros(3),
        lambda: np.array([None, "x"], dtype=object),
        lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
        lambda: np.float64(0.5),
        lambda: (1, 2),
        lambda: {1, 2},
        lambda: b"bytes",
        lambda: 1j,
        lambda: {1: 2, None: 3},
        lambda: _ForeignMemory(),
        lambda: _RunsCode(outside / "made"),
        lambda: "MODEL: {DEVICE: cpu}\n",
        lambda: "a: !!python/object/apply:os.system [ls]\n",
        lambda: "[1, 2",
        lambda: alias_bomb(),
    ]


def alias_bomb(levels: int = 40) -> str:
    """A few lines of YAML that stand for more values than a memory holds."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [
        f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, levels)
    ]
    return "\n".join(lines) + "\n"


def _saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _change_program(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Bytes of the pickle, which says what the values are."""
    parts = _parts(data)
    name = next(name for name in parts if name.endswith("data.pkl"))
    if rng.random() < 0.1:
        # Lists that are pushed, and each then appended to the one before.
        parts[name], what = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "deep nesting"
    else:
        parts[name], what = change_bytes(rng, parts[name])
    return _zipped(parts), f"data.pkl: {what}"


def _change_archive(rng: random.Random, data: bytes, outside: Path) -> tuple[bytes, str]:
    parts = _parts(data)
    name = rng.choice(list(parts))
    folder = name.split("/")[0]
    how = rng.choice(("drop", "empty", "change", "compress", "unfold", "outside", "nest"))
    if how == "drop":
        del parts[name]
    elif how == "empty":
        parts[name] = b""
    elif how == "change":
        parts[name], _ = change_bytes(rng, parts[name])
    elif how == "unfold":
        tensor = next(name for name in parts if "/data/" in name)
        parts[tensor] = bytes(400 << 20)
    elif how == "outside":
        parts[f"../../{outside.name}/x"] = parts[str(outside / "y")] = b"x"
    elif how == "nest":
        parts[f"{folder}/{folder}/data.pkl"] = parts[name]
    compression = zipfile.ZIP_DEFLATED if how in ("compress", "unfold") else zipfile.ZIP_STORED
    return _zipped(parts, compression), f"{how} {name}"


def _change_folder(rng: random.Random, folder: Path, outside: Path) -> str:
    """The other files of a run, or links in their places."""
    name = rng.choice(
        (
            *("last_checkpoint", "last_checkpoint.partial", "model_0001.pth.partial", "log.txt"),
            *("model_final.pth", "model_final.pth.partial", "config.yaml", "metrics.json"),
            *("results.json", "results.json.partial", "model_best.pth", "model_before_test.pth"),
        )
    )
    path = folder / name
    how = rng.choice(("link", "link", "link", "pipe", "folder", "bytes", "text"))
    content = path.read_bytes() if path.exists() else b"{}\n"
    path.unlink(missing_ok=True)
    if how == "link":
        targets = ("notes.txt", "config.yaml", "model.pth", "new.txt", "")
        path.symlink_to(outside / rng.choice(targets))
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "bytes":
        path.write_bytes(change_bytes(rng, content)[0])
    else:
        texts = [
            f"../../{outside.name}/model.pth",
            f"{outside}/model.pth",
            "\0",
            "",
            ".",
            "x\n" * 9,
        ]
        path.write_text(rng.choice(texts))
    return f"{name} is another: {how}"


def _parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()
