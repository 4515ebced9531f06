from __future__ import annotations

import io
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabin_plugin.errors import WeightsError
from metabin_plugin.weight_files import (
    agrees_with_checksums,
    check_intact,
    read_weight_file,
    unreadable_globals,
)
from tests.weight_file_samples import RunsCode, flip_bit, save_malicious


def content() -> dict[str, Any]:
    return {
        "model": {
            "a": torch.linspace(-1, 1, 20),
            "b": torch.arange(30),
            "c": torch.full((3, 3), 0.5).half(),
        },
        "epoch": 3,
        "metric": 0.25,
    }


def same(found: Any, expected: Any) -> bool:
    """Equality to the bit, of types as well."""
    if type(found) is not type(expected):
        return False
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            same(found[key], value) for key, value in expected.items()
        )
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    return found == expected


def read(raw: bytes, path: Path) -> Any:
    path.write_bytes(raw)
    with warnings.catch_warnings():
        # PyTorch's own, about an odd pickle protocol.
        warnings.simplefilter("ignore", UserWarning)
        return read_weight_file(str(path))


@pytest.fixture
def raw() -> bytes:
    buffer = io.BytesIO()
    torch.save(content(), buffer)
    return buffer.getvalue()


def test_pytorch_alone_reads_flipped_bits_as_weights(raw: bytes, tmp_path: Path) -> None:
    position = raw.index(content()["model"]["a"].numpy().tobytes())
    (tmp_path / "flipped.pth").write_bytes(raw)
    flip_bit(tmp_path / "flipped.pth", position + 2)
    found = torch.load(tmp_path / "flipped.pth", weights_only=True)
    assert not same(found, content())
    with pytest.raises(WeightsError, match=r"damaged \(wrong checksum of 0\)"):
        read_weight_file(str(tmp_path / "flipped.pth"))


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_refused_or_changes_nothing(
    raw: bytes, tmp_path: Path, stride: int
) -> None:
    outcomes = []
    # All over the file, headers and directory included; another bit of the byte each time.
    for position in range(0, len(raw), stride):
        flipped = bytearray(raw)
        flipped[position] ^= 1 << (position * 5 % 8)
        try:
            assert same(read(bytes(flipped), tmp_path / "flipped.pth"), content()), position
            outcomes.append("same")
        except WeightsError:
            outcomes.append("refused")
    assert outcomes.count("refused") > len(outcomes) / 2


def test_a_tensor_marked_as_a_folder_is_refused(raw: bytes, tmp_path: Path) -> None:
    # PyTorch would read other values. Bit 4 of the attributes in the directory.
    entry = raw.rindex(b"archive/data/0")
    flipped = bytearray(raw)
    flipped[entry - 46 + 38] ^= 1 << 4
    with pytest.raises(WeightsError, match="marked as a folder"):
        read(bytes(flipped), tmp_path / "flipped.pth")


def test_a_truncated_file_is_refused_at_any_length(raw: bytes, tmp_path: Path) -> None:
    for length in range(0, len(raw), 23):
        with pytest.raises(WeightsError, match=r"cut\.pth is"):
            read(raw[:length], tmp_path / "cut.pth")


def test_an_overwritten_stretch_is_refused_or_changes_nothing(raw: bytes, tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(100):
        start, length = draw.randrange(len(raw)), draw.randint(1, 600)
        noise = draw.choice([bytes(length), draw.randbytes(length)])
        damaged = (raw[:start] + noise + raw[start + length :])[: len(raw)]
        try:
            assert same(read(damaged, tmp_path / "noisy.pth"), content()), (start, length)
        except WeightsError:
            continue


def test_empty_missing_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "photo.pth").write_bytes(b"\xff\xd8\xff\xe0" + bytes(500))
    for name, words in [
        ("empty.pth", "is empty"),
        ("text.pth", "no file of torch.save, or holds other things"),
        ("photo.pth", "no file of torch.save, or holds other things"),
        ("absent.pth", "No such file"),
        (".", "Is a directory"),
    ]:
        with pytest.raises(WeightsError, match=words):
            read_weight_file(str(tmp_path / name))


def test_the_old_format_loads_and_its_cut_files_do_not(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(content(), path, _use_new_zipfile_serialization=False)
    assert same(read_weight_file(str(path)), content())
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        with pytest.raises(WeightsError):
            read(whole[:length], tmp_path / "cut.pth")


def test_only_a_file_with_checksums_agrees_with_them(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(raw)
    assert agrees_with_checksums(str(path))
    flip_bit(path, raw.index(content()["model"]["b"].numpy().tobytes()))
    assert not agrees_with_checksums(str(path))
    torch.save(content(), path, _use_new_zipfile_serialization=False)
    assert not agrees_with_checksums(str(path))
    check_intact(str(path))
    assert not agrees_with_checksums(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_named_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    save_malicious(path, marker, legacy)
    with pytest.raises(WeightsError, match=r"evil\.pth holds a Python object, posix\.system, that"):
        read_weight_file(str(path))
    assert not marker.exists()
    # The file does what it says where nobody takes care.
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps({"model": RunsCode(tmp_path / "marker")}, protocol=2))
    with pytest.raises(WeightsError, match=r"plain\.pth holds a Python object"):
        read_weight_file(str(path))
    assert not (tmp_path / "marker").exists()


def test_numpy_values_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "old.pth")
    torch.save({"array": np.array([[1.0, 2.0]]), "metric": np.float64(0.5)}, path)
    found = read_weight_file(path)
    assert found["array"].tolist() == [[1.0, 2.0]]
    assert found["metric"] == 0.5


def test_what_a_reader_would_refuse_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "file.pth")
    torch.save(content(), path)
    assert unreadable_globals(path) == []
    torch.save({"path": tmp_path, "number": np.float32(1)}, path)
    # Another name in Python 3.13.
    kind = type(tmp_path)
    assert unreadable_globals(path) == [f"{kind.__module__}.{kind.__name__}"]
