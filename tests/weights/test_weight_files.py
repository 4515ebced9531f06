from __future__ import annotations

import io
import os
import pickle
import random
import re
import zipfile
from _codecs import encode
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from yacs.config import CfgNode

from metabin_plugin.errors import WeightsError
from metabin_plugin.weights.files import read_weight_file, unreadable_values
from tests.campaigns import tries
from tests.processes import apart
from tests.weights.weight_file_samples import RunsCode, flip_bit, refusal, save_malicious

MIB = 1 << 20


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


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.exhaustive)])
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
        ("text.pth", "not a file of torch.save"),
        ("photo.pth", "not a file of torch.save"),
        ("absent.pth", "No such file"),
        (".", "Is a directory|Not a regular file"),
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


def test_the_old_format_is_said_to_have_no_checksums(tmp_path: Path, plugin_log: Any) -> None:
    path = tmp_path / "old.pth"
    torch.save(content(), path, _use_new_zipfile_serialization=False)
    read_weight_file(str(path))
    assert "old.pth is in the format before PyTorch 1.6, which has no checksums" in plugin_log.text
    with pytest.raises(WeightsError, match=r"old\.pth is damaged, or in the format before PyTorch"):
        read_weight_file(str(path), with_checksums=True)
    torch.save(content(), path)
    assert same(read_weight_file(str(path), with_checksums=True), content())


# PyTorch's own choice first.
PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3, 4, 5])


@PROTOCOLS
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_named_and_not_run(tmp_path: Path, legacy: bool, protocol: int) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    save_malicious(path, marker, legacy, protocol)
    with pytest.raises(WeightsError, match=r"evil\.pth holds a Python object, posix\.system, that"):
        read_weight_file(str(path))
    assert not marker.exists()
    # The file does what it says where nobody takes care.
    torch.load(path, weights_only=False)
    assert marker.exists()


@PROTOCOLS
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("held", "name"),
    [
        (nn.Sequential(nn.Linear(2, 2)), r"torch\.nn\.modules\.container\.Sequential"),
        ({"model": {}, "args": Namespace(lr=0.1)}, r"argparse\.Namespace"),
        ({"model": {}, "cfg": CfgNode({"A": 1})}, r"yacs\.config\.CfgNode"),
        ({"model": {}, "seen": {1, 2}}, r"(__builtin__\.|builtins\.)?set"),
        ({"model": {}, "seen": frozenset([1, 2])}, r"(__builtin__\.|builtins\.)?frozenset"),
        ({"model": {}, "raw": b"bytes"}, r"(_codecs\.encode|bytes)"),
    ],
    ids=["network", "arguments", "config", "set", "frozen set", "bytes"],
)
# Of the source code of classes, which PyTorch looks for.
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_objects_are_no_damage(
    tmp_path: Path, held: Any, name: str, legacy: bool, protocol: int
) -> None:
    """What others save beside their weights: the whole network, the arguments of its training."""
    path = tmp_path / "whole.pth"
    kind = {"_use_new_zipfile_serialization": not legacy, "pickle_protocol": protocol}
    torch.save(held, path, **kind)
    with pytest.raises(WeightsError, match=rf"whole\.pth holds a Python object, {name}, that"):
        read_weight_file(str(path))


COMPLEX = torch.complex(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("held", "words"),
    [
        (COMPLEX, "a complex tensor"),
        (COMPLEX.to(torch.complex128).conj(), "a complex tensor"),
        (torch.eye(3).to_sparse(), "a sparse tensor"),
        (torch.eye(3).to_sparse_csr(), "a sparse tensor"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a quantized tensor"),
        (torch.ones(2, device="meta"), "a tensor without numbers"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]), "a nested tensor"),
        (torch._neg_view(torch.ones(2)), "a tensor of numbers to be negated or conjugated"),
        (torch.ones(1, 3).expand(4, 3), "a tensor with the same number in several places"),
        (np.ones(2, complex), "NumPy values that are not plain numbers"),
        (np.array(["text"]), "NumPy values that are not plain numbers"),
        ({(1, 2): 3}, "a dict with other keys than text and numbers of Python"),
        ({np.int64(3): 1.0}, "a dict with other keys than text and numbers of Python"),
        ({None: 1.0}, "a dict with other keys than text and numbers of Python"),
    ],
)
# Of PyTorch's prototypes.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_no_network_has_is_neither_damage_nor_code(
    tmp_path: Path, held: Any, words: str, legacy: bool
) -> None:
    path = tmp_path / "odd.pth"
    torch.save({"model": {"a": held}}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=rf"odd\.pth holds {words}[,;]") as failure:
        read_weight_file(str(path))
    assert "damaged" not in str(failure.value)
    assert "code" not in str(failure.value)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16, torch.complex32])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_types_of_numbers_that_no_network_has(tmp_path: Path, dtype: torch.dtype) -> None:
    """In one of PyTorch's storages without a type, which its old format does not have."""
    torch.save({"model": {"a": torch.ones(2).to(dtype)}}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"holds a tensor of an unusual type, as float8"):
        read_weight_file(str(tmp_path / "odd.pth"))


def test_a_plain_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps({"model": RunsCode(tmp_path / "marker")}, protocol=2))
    with pytest.raises(WeightsError, match=r"plain\.pth is damaged or not a file of torch\.save"):
        read_weight_file(str(path))
    assert not (tmp_path / "marker").exists()


def test_a_named_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightsError, match=r"pipe\.pth cannot be read \(Not a regular file\)"):
        read_weight_file(str(tmp_path / "pipe.pth"))


# What files of others hold.


@PROTOCOLS
@pytest.mark.parametrize("legacy", [False, True])
def test_values_of_numpy_become_tensors_and_numbers(
    tmp_path: Path, legacy: bool, protocol: int
) -> None:
    numbers = np.arange(6).reshape(2, 3)
    stored = {
        **{kind: numbers.astype(kind) for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1")},
        "b1": numbers > 2,
        ">f4": numbers.astype(">f4"),
        "columns": np.asfortranarray(numbers),
        "empty": numbers[:0],
        "none": np.array(7.0),
        "many": np.arange(100_000),
        "read only": np.frombuffer(bytes(range(16)), "<i4"),
    }
    torch.save(
        {"arrays": stored, "numbers": [np.float64(0.5), np.int64(-3), np.bool_(True)]},
        tmp_path / "numpy.pth",
        _use_new_zipfile_serialization=not legacy,
        pickle_protocol=protocol,
    )
    found = read_weight_file(str(tmp_path / "numpy.pth"))
    for name, array in stored.items():
        expected = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        assert torch.equal(found["arrays"][name], expected), name
        assert found["arrays"][name].dtype == expected.dtype
    assert same(found["numbers"], [0.5, -3, True])


@PROTOCOLS
@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_are_read_as_they_were(tmp_path: Path, legacy: bool, protocol: int) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm2d(4)).state_dict()
    stored = {
        "rows": whole[1:3],
        "columns": whole.t(),
        "every second": whole[:, ::2],
        "scalar": torch.tensor(3, dtype=torch.int16),
        "empty": torch.zeros(0, 5),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "truth": torch.tensor([True, False]),
        "half": torch.ones(3).bfloat16(),
        "state": state,
        "size": whole.shape,
        "counter": Counter({3: 1}),
        "large": 2**70,
        "names": [f"layer{number}.weight" for number in range(10_000)],
        "text": 100 * "日本",
    }
    path = tmp_path / "tensors.pth"
    kind = {"_use_new_zipfile_serialization": not legacy, "pickle_protocol": protocol}
    torch.save(stored, path, **kind)
    found = read_weight_file(str(path))
    assert (
        found["rows"].untyped_storage().data_ptr() == found["columns"].untyped_storage().data_ptr()
    )
    assert found["columns"].stride() == (1, 6)
    assert found["state"]._metadata == state._metadata
    assert type(found["state"]) is type(state)
    assert type(found["parameter"]) is torch.Tensor
    assert found["size"] == (4, 6)
    assert found["counter"] == Counter({3: 1})
    for name in (
        "rows",
        "columns",
        "every second",
        "scalar",
        "empty",
        "truth",
        "half",
        "large",
        "names",
        "text",
    ):
        assert same(found[name], stored[name]), name
    assert not unreadable_values({n: v for n, v in stored.items() if n != "size"})


def test_what_a_reader_would_refuse_is_named(tmp_path: Path) -> None:
    assert unreadable_values(content()) == []
    odd = {
        "path": tmp_path,
        "number": np.float32(1),
        "hook": {"sparse": [torch.ones(3).to_sparse()], "repeated": torch.ones(1).expand(4)},
        "complex": torch.ones(1, dtype=torch.complex64),
        "array": np.ones(2),
        "number of the machine": np.longdouble(1),
        "byte": np.uint8(1),
        "defaults": defaultdict(list, {"a": [1]}),
        "config": CfgNode({"A": 1}),
        "seen": {(1, 2): 3},
        "counts": {np.int64(3): 1.0},
    }
    names = [entry.rpartition(" (")[0] for entry in unreadable_values(odd)]
    assert names == [
        *("path", "hook.sparse.0", "hook.repeated", "complex", "array", "number of the machine"),
        *("defaults", "config", "seen.(1, 2)", "counts.3"),
    ]


def attributes(**values: Any) -> OrderedDict[str, Any]:
    made: OrderedDict[str, Any] = OrderedDict(a=1)
    vars(made).update(values)
    return made


ODD_VALUES = [
    *(None, True, 3, 0.5, "text", (1,), [], {}, {"a": {1: {2.5: {True: "b"}}}}, 2**70, b"bytes"),
    *(torch.ones(2), COMPLEX, torch.ones(2).expand(4, 2), torch.eye(2).to_sparse()),
    *(np.float64(1), np.uint8(1), np.uint16(1), np.longdouble(1), np.complex64(1), np.ones(2)),
    *({None: 1}, {(1,): 1}, {np.int64(1): 1}, {np.str_("a"): 1}, {1}, frozenset(), 1j),
    *(Counter("ab"), Counter(a=0.5), OrderedDict(a=1), defaultdict(int, a=1), CfgNode({"A": 1})),
    *(attributes(_metadata={"": {"version": 1}}), attributes(_metadata={"": {"version": "a"}})),
    *(attributes(_metadata={"": {"other": 1}}), attributes(other=1), Path("a"), torch.float32),
    *(torch.ones(2).to(torch.float8_e4m3fn), nn.Parameter(torch.ones(2)), torch.Size([1])),
]


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_written_is_what_can_be_read(tmp_path: Path, value: Any) -> None:
    """A checkpoint that is saved without a word must not be one that nobody can read."""
    path = tmp_path / "value.pth"
    torch.save({"a": [value]}, path)
    if unreadable_values({"a": [value]}):
        return
    read_weight_file(str(path))


# What files can be made to hold.


def assembled(pickled: bytes, folder: Path, data: bytes = bytes(16), **changes: Any) -> Path:
    """A file of torch.save's format around a pickle, with one storage "0"."""
    path = folder / "made.pth"
    with zipfile.ZipFile(path, "w", changes.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", changes.get("byteorder", "little"))
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3\n")
        for name in changes.get("more", ()):
            archive.writestr(name, b"")
    return path


class Written:
    """What a pickle names, called with arguments; and then given a state."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


class Storage:
    """Bytes of the file, as many numbers of a type as one says."""

    def __init__(self, numel: int = 4, kind: str = "FloatStorage", key: str = "0") -> None:
        self.reference = ("storage", getattr(torch, kind), key, "cpu", numel)


class Writer(pickle._Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.reference if isinstance(value, Storage) else None


def written(value: Any) -> bytes:
    buffer = io.BytesIO()
    Writer(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def tensor(
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    storage: Any = None,
    more: tuple[Any, ...] = (),
) -> Written:
    rebuild = torch._utils._rebuild_tensor_v2
    storage = Storage() if storage is None else storage
    return Written(rebuild, storage, offset, size, stride, False, OrderedDict(), *more)


def dtype(code: str, *state: Any) -> Written:
    return Written(
        np.dtype, code, False, True, state=state or (3, "<", None, None, None, -1, -1, 0)
    )


def array(kind: Any, shape: Any = (1,), raw: Any = bytes(8), by_columns: Any = False) -> Written:
    rebuild = np.ones(1).__reduce__()[0]
    return Written(rebuild, np.ndarray, (0,), b"b", state=(1, shape, kind, by_columns, raw))


def ordered(**attributes: Any) -> Written:
    return Written(OrderedDict, state=attributes)


def nested(depth: int, width: int) -> list[Any]:
    value: list[Any] = [0]
    for _ in range(depth):
        value = [value] * width
    return value


def looped() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


HOSTILE = {
    "larger than its data": tensor((5,)),
    "behind its data": tensor((4,), offset=1),
    "from a negative place": tensor((2,), offset=-1),
    "a number a thousand billion times": tensor((10**12,), (0,)),
    "one number in several places": tensor((2, 2), (1, 1)),
    "backwards": tensor((2,), (-1,), 1),
    "two sizes, one stride": tensor((2, 2), (1,)),
    "huge stride": tensor((2,), (2**62,)),
    "huge empty": tensor((0, 2**62), (1, 1)),
    "a size that is text": tensor(("4",)),
    "negated bit": tensor(more=({"neg": True},)),
    "conjugated bit": tensor(more=({"conj": True},)),
    "storage of another size": tensor(storage=Storage(400)),
    "storage that is missing": tensor(storage=Storage(key="7")),
    "storage outside": tensor(storage=Storage(key="../version")),
    "storage in two types": [tensor(), tensor(storage=Storage(2, "DoubleStorage"))],
    "complex storage": tensor(storage=Storage(2, "ComplexFloatStorage")),
    "quantized storage": tensor(storage=Storage(16, "QInt8Storage")),
    "storage alone": Storage(),
    "tensor of nothing": tensor(storage=3),
    "truth values of 7": tensor(storage=Storage(16, "BoolStorage"), size=(16,)),
    "a parameter of text": Written(torch._utils._rebuild_parameter, "text", True, OrderedDict()),
    "state of a tensor": Written(
        torch._utils._rebuild_tensor_v2,
        *(Storage(), 0, (4,), (1,), False, OrderedDict()),
        state=(Storage(), 0, (10**12,), (0,)),
    ),
    "sparse": Written(
        torch._utils._rebuild_sparse_tensor,
        torch.sparse_coo,
        (tensor((1, 4), (4, 1), storage=Storage(2, "LongStorage")), tensor(), (1,)),
    ),
    "quantized": Written(
        torch._utils._rebuild_qtensor,
        *(Storage(), 0, (10**12,), (1,), (torch.per_tensor_affine, 1.0, 0), False, OrderedDict()),
    ),
    "meta": Written(
        torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (10**12,), (1,), False
    ),
    "subclass": Written(torch._tensor._rebuild_from_type_v2, torch.Tensor, torch.Tensor, (), {}),
    "wrapper": Written(
        torch._utils._rebuild_wrapper_subclass,
        *(torch.Tensor, torch.float32, (4,), (1,), 0, torch.strided, "cpu", False),
    ),
    "memory that was never written": Written(torch.FloatTensor, 10**6),
    "a terabyte of bytes": Written(bytearray, 10**12),
    "text codec": Written(encode, "a", "latin1"),
    "set": Written(set, [1]),
    "complex number": Written(complex, "1j"),
    "device": Written(torch.device, "cpu"),
    "dtype alone": {"dtype": torch.float32},
    "function alone": {"a": torch._utils._rebuild_tensor_v2},
    "state of a function": Written(getattr, OrderedDict, "fromkeys"),
    "array of objects": array(dtype("O8", 3, "|", None, None, None, -1, -1, 63)),
    "array with object fields": array(
        dtype("V8", 3, "|", None, ("f",), {"f": (dtype("O8"), 0)}, 8, 1, 16)
    ),
    "array of text": array(dtype("U2", 3, "<", None, None, None, 8, 4, 8)),
    "array with a subarray": array(dtype("f8", 3, "<", ("f8", (10**9,)), None, None, -1, -1, 0)),
    "array longer than its bytes": array(dtype("f8"), (10**9,)),
    "array of negative size": array(dtype("f8"), (-1,)),
    "array of pickled values": array(dtype("f8"), (1,), [1.0]),
    "array of dates": array(dtype("M8", 3, "<", None, None, None, -1, -1, 0)),
    "array that is not finished": Written(np.ones(1).__reduce__()[0], np.ndarray, (0,), b"b"),
    "array made directly": Written(np.ndarray, (1,), "O"),
    "number of objects": Written(np.float64(1).__reduce__()[0], dtype("O8"), bytes(8)),
    "ordered dict with other methods": ordered(items=3),
    "order to replace parameters": ordered(_metadata={"": {"assign_to_params_buffers": True}}),
    "versions in text": ordered(_metadata={"": {"version": "two"}}),
    "metadata of other kind": ordered(_metadata=[1]),
    "ordered dict of numbers": Written(OrderedDict, [1, 2]),
    "counter of text": Written(Counter, {"a": "b"}),
    "tensor as a key": {(1, 2): 3},
    "billion lists": nested(9, 10),
    "contains itself": looped(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_could_do_harm_is_refused_before_it_is_made(tmp_path: Path, name: str) -> None:
    path = assembled(written({"model": HOSTILE[name]}), tmp_path, bytes([7] * 16))
    said, taken = apart(refusal, str(path))
    assert re.search(r"made\.pth (is damaged or|holds )", said)
    assert "\n" not in said
    assert taken < 32 * MIB


def test_the_memory_that_reading_takes_is_seen(tmp_path: Path) -> None:
    # Though this process may have taken more before.
    torch.save({"a": torch.ones(64 * MIB // 4)}, tmp_path / "large.pth")
    said, taken = apart(refusal, str(tmp_path / "large.pth"))
    assert not said and 64 * MIB < taken < 128 * MIB


def test_the_parts_of_these_files_are_read_where_nothing_is_wrong(tmp_path: Path) -> None:
    data = np.arange(4, dtype="<f4").tobytes()
    whole = {"tensor": tensor(), "array": array(dtype("f8")), "dict": ordered(_metadata={})}
    found = read_weight_file(str(assembled(written(whole), tmp_path, data)))
    assert found["tensor"].tolist() == [0, 1, 2, 3]
    assert found["array"].tolist() == [0]
    assert found["dict"] == {}


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02(" + b"]" * (1 << 23) + b"l.",
        b"\x80\x02" + b"]" * 400 + b"a" * 399 + b".",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02}.extra"[:2],
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x04K\x01K\x01\x93.",
        b"\x80\x05\x97.",
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        b"\x80\x02cbuiltins\neval\nq\x00.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02ccollections\nOrderedDict\n}}b.",
        b"\x80\x02ccollections\nOrderedDict\nN}U\x04nameK\x01s\x86b.",
        b"\x80\x02N.",
    ],
    ids=[
        *(
            "8 million lists",
            "deep",
            "index of 2 billion",
            "text of 2 GB",
            "no end",
            "frame",
            "text of 8 EB",
            "bytes of 8 EB",
            "a name that is a number",
            "buffer outside",
            "number of 2 GB",
            "eval",
        ),
        *("new object", "state of a class", "attribute of a class", "nothing"),
    ],
)
def test_pickles_that_no_writer_writes(tmp_path: Path, pickled: bytes) -> None:
    try:
        assert read_weight_file(str(assembled(pickled, tmp_path))) is None
    except WeightsError as error:
        assert "made.pth" in str(error)
    made = OrderedDict()
    assert not vars(made)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed, which torch.save never does"),
        ({"byteorder": "big"}, "another order of bytes"),
        ({"more": ["archive/data/0"]}, "two parts of one name"),
        ({"more": ["archive/DATA.PKL"]}, "two parts of one name"),
        ({"more": ["other/data.pkl"]}, "2 parts data.pkl"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_no_writer_writes(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(WeightsError, match=words):
        read_weight_file(str(assembled(written({"a": tensor()}), tmp_path, **changes)))


def test_a_compressed_file_is_not_unfolded(tmp_path: Path) -> None:
    size = 1 << 28
    pickled = written({"a": tensor((size // 4,), storage=Storage(size // 4))})
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickled)
        with archive.open("archive/data/0", "w") as entry:
            for _ in range(size >> 20):
                entry.write(bytes(1 << 20))
    assert path.stat().st_size < size / 100
    said, taken = apart(refusal, str(path))
    assert "compressed" in said
    assert taken < 32 * MIB


def test_an_old_file_that_says_to_be_larger_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    count = (4).to_bytes(8, "little") + np.ones(4, "<f4").tobytes()
    path.write_bytes(raw.replace(count, (10**12).to_bytes(8, "little") + count[8:]))
    with pytest.raises(WeightsError, match="its parts are larger than the file"):
        read_weight_file(str(path))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda parts: st.lists(parts) | st.dictionaries(st.text("abc") | st.integers(), parts),
    max_leaves=20,
)


@given(value=VALUES, legacy=st.booleans())
def test_any_plain_values_are_read_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, value: Any, legacy: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "values.pth"
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    assert read_weight_file(str(path)) == value
    assert unreadable_values(value) == []


@given(draw=st.data())
@settings(max_examples=tries(100, 300), deadline=None)
def test_any_bytes_in_the_place_of_others_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    pickled = bytearray(written({"model": ordered(_metadata={"": {"version": 2}}), "a": tensor()}))
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(pickled) - 1))
        pickled[place] = draw.draw(st.integers(0, 255))
    path = assembled(bytes(pickled), tmp_path_factory.getbasetemp())
    try:
        assert unreadable_values(read_weight_file(str(path))) == []
    except WeightsError as error:
        assert str(error).isprintable()
