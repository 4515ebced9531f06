"""Reading files of ``torch.save``: verified, bounded by their size, and never executed.

Nothing that a pickle in them names is looked up or called. Its functions and classes become inert
marks first, and of the marks those few are then turned into values that ``torch.save`` writes for
tensors and NumPy for numbers.
"""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import pickletools
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from metabin_plugin.errors import WeightsError
from metabin_plugin.files import open_regular, reason
from metabin_plugin.text import shown

logger = logging.getLogger(__name__)

_ZIP_SIGNATURE = b"PK\x03\x04"
# PyTorch's zip reader takes an entry with this attribute for a folder, thus for empty.
_FOLDER_ATTRIBUTE = 0x10
_CHUNK = 1 << 24
# Of the format before PyTorch 1.6: a number by which it is known, and its version.
_OLD_MAGIC, _OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001
_KEYS = (bool, int, float, str)
_PLAIN = (type(None), *_KEYS)
# Gives the bytes of a storage, as a uint8 tensor of this length, by its key.
Storages = Callable[[str, int], Tensor]

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What else there is: types of numbers by a part of their storage's name, kinds by their function.
_UNUSUAL_NUMBERS = {
    "Complex": "a complex tensor",
    "Q": "a quantized tensor",
    "Untyped": "a tensor of an unusual type, as float8",
}
_UNUSUAL_TENSORS = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor without numbers, as of device meta",
}
# Those of NumPy that PyTorch has too.
_ARRAY_TYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
# All that pickle's protocols 2 to 5 need for plain values, calls and references.
_OPCODES = frozenset(
    [
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        # Of protocols 3, 4 and 5.
        *("BINBYTES", "SHORT_BINBYTES"),
        *("FRAME", "MEMOIZE", "STACK_GLOBAL", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES8"),
        *("EMPTY_SET", "ADDITEMS", "FROZENSET"),
        "BYTEARRAY8",
    ]
)
# They make objects of whole networks, or of the arguments of a training.
_OBJECTS = ("NEWOBJ", "NEWOBJ_EX")
_DEEPEST = 50
# A byte can make an object of a hundred; a large network's file has 100,000 instructions.
_MOST_INSTRUCTIONS = 1 << 22
# Values that a file may stand for where parts of it are named again.
_MOST_VALUES = 1 << 23
_LARGEST_SIDE = 1 << 40


class _DamageError(ValueError):
    """The content is not what was once written."""


class _UnusualError(ValueError):
    """The content is what ``torch.save`` can write, but nothing that a network or run here has."""


def read_weight_file(path: str, *, with_checksums: bool = False) -> Any:
    """Verify and read a file written by ``torch.save``.

    PyTorch writes a checksum of every tensor but does not look at it when it reads; here they are
    compared. Files in the format before PyTorch 1.6 have none: of these a damaged one may be read
    without an error, which the log says. No more memory is taken than the file is large.

    Args:
        path: the file.
        with_checksums: whether to refuse a file that has none.

    Returns:
        Its content: tensors on the CPU, also where the file has arrays of NumPy; numbers, strings,
        None, lists, tuples, dicts, ``OrderedDict`` and ``Counter``.

    Raises:
        WeightsError: the file is missing, unreadable, empty or damaged, or holds other objects or
            tensors, of which none is made.
    """
    name = shown(path)
    try:
        with open_regular(path) as file:
            start = file.read(len(_ZIP_SIGNATURE))
            file.seek(0)
            if not start:
                raise WeightsError(f"{name} is empty; give another file, or make it again")
            if start == _ZIP_SIGNATURE:
                return _read_zip(file)
            if with_checksums:
                raise WeightsError(
                    f"{name} is damaged, or in the format before PyTorch 1.6, which has no "
                    "checksums by which damage could be seen; give another file, or load it once "
                    "with torch.load and save it again by torch.save"
                )
            content = _read_old(file)
    except (WeightsError, MemoryError):
        raise
    except OSError as error:
        raise WeightsError(
            f"{name} cannot be read ({reason(error)}); give the path of a file saved by torch.save"
        ) from error
    except RefusedObjectError as error:
        raise WeightsError(
            f"{name} holds a Python object, {shown(error.name)}, that could run any code, so "
            "nothing was loaded; if you trust where the file comes from, load it once with "
            "torch.load(..., weights_only=False) and save its tensors alone"
        ) from error
    except _UnusualError as error:
        raise WeightsError(
            f"{name} holds {error}, which no checkpoint of a network here has; load it once with "
            "torch.load and save what a network needs by torch.save: dense tensors of real numbers "
            "in dicts by their names"
        ) from error
    except _DamageError as error:
        raise WeightsError(
            f"{name} is damaged ({error}); give another file, or make it again"
        ) from error
    # Whatever a parser says of a file that is not one.
    except Exception as error:
        said = shown(reason(error))
        raise WeightsError(
            f"{name} is damaged or not a file of torch.save ({said}); give another file, or make "
            "it again"
        ) from error
    logger.warning(
        "%s is in the format before PyTorch 1.6, which has no checksums: damage in it cannot be "
        "seen",
        name,
    )
    return content


def missing_entries(path: str, names: Sequence[str]) -> list[str]:
    """Entries that a dict saved by ``torch.save`` lacks, seen without reading its numbers.

    Args:
        path: the file.
        names: of the entries.

    Returns:
        Those of ``names`` that it lacks; none where the file cannot be read so: damaged, in the
        format before PyTorch 1.6, or of something else than a dict.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            marks = _Archive(file, archive).pickled().marks
    # Whatever a parser says of a file that is not one.
    except Exception:
        return []
    match marks:
        case dict():
            keys = set(marks)
        case _Call(function="collections.OrderedDict"):
            keys = {key for key, _ in marks.items}
        case _:
            return []
    return [name for name in names if name not in keys]


def unreadable_values(content: Any, where: str = "") -> list[str]:
    """What :func:`read_weight_file` would refuse if ``torch.save`` wrote it.

    Args:
        content: plain values, nested.
        where: name of the content.

    Returns:
        Name and type of every such entry.
    """
    if type(content) in _PLAIN or _is_plain_number(content):
        return []
    if isinstance(content, Tensor):
        return [] if _is_plain_tensor(content) else [f"{where} ({_described(content)})"]
    prefix = f"{where}." if where else ""
    kind = type(content)
    if kind in (list, tuple):
        entries = [*enumerate(content)]
    elif kind in (dict, OrderedDict, Counter):
        entries = [*content.items()]
    else:
        return [f"{where} ({kind.__module__}.{kind.__qualname__})"]
    found = [f"{prefix}{k} (its key, {type(k).__name__})" for k, _ in entries if not _is_key(k)]
    found += [name for k, part in entries for name in unreadable_values(part, f"{prefix}{k}")]
    if kind is Counter:
        found += [f"{prefix}{k} (a count)" for k, count in entries if type(count) is not int]
    if kind is OrderedDict and not _has_state_dict_attributes(content):
        found.append(f"{where} (its attributes)")
    return found


def _is_key(key: Any) -> bool:
    return type(key) in _KEYS


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, np.generic) and value.dtype.str[1:] in _ARRAY_TYPES


def _has_state_dict_attributes(content: OrderedDict[Any, Any]) -> bool:
    try:
        _check_metadata(vars(content).get("_metadata", {}))
    except ValueError:
        return False
    return not vars(content).keys() - {"_metadata"}


def _is_plain_tensor(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type == "meta":
        return False
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPES.values():
        return False
    return not overlaps(tensor.shape, tensor.stride())


def _described(tensor: Tensor) -> str:
    return f"a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}, {tensor.device}"


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        return _Archive(file, archive).values()


class _Archive:
    """A file of ``torch.save`` since PyTorch 1.6: a pickle, and the numbers of each storage."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        entries = archive.infolist()
        _check_entries(entries, os.fstat(file.fileno()).st_size)
        self._archive = archive
        self._by_name = {entry.filename: entry for entry in entries}
        pickles = [name for name in self._by_name if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} parts data.pkl, not one")
        self._pickle, self._root = pickles[0], pickles[0].removesuffix("data.pkl")
        order = self._by_name.get(f"{self._root}byteorder")
        if order is not None and bytes(_content(archive, order).numpy()) != b"little":
            raise ValueError("saved on a machine with another order of bytes")

    def pickled(self) -> Pickled:
        described = _content(self._archive, self._by_name[self._pickle])
        return read_pickle(io.BytesIO(described.numpy().tobytes()))

    def values(self) -> Any:
        read = {self._pickle}

        def storage(key: str, nbytes: int) -> Tensor:
            name = f"{self._root}data/{key}"
            entry = self._by_name.get(name)
            read.add(name)
            if entry is None or entry.file_size != nbytes:
                raise ValueError(f"the numbers of tensor data {shown(key)} are not there")
            return _content(self._archive, entry)

        values = self.pickled().values(storage)
        # What no tensor refers to can be damaged too.
        for name in self._by_name.keys() - read:
            _content(self._archive, self._by_name[name])
        return values


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    # PyTorch compresses nothing, so what is unfolded is never larger than the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its parts are larger than the file")
    if any(entry.external_attr & _FOLDER_ATTRIBUTE for entry in entries):
        raise ValueError("a tensor is marked as a folder")
    # PyTorch does not tell capital letters from small ones.
    if len({entry.filename.casefold() for entry in entries}) < len(entries):
        raise ValueError("two parts of one name")


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    """The bytes of an entry that agree with its checksum."""
    content = torch.empty(entry.file_size, dtype=torch.uint8)
    try:
        with archive.open(entry) as source:
            _fill(content, source)
            # The checksum is compared where the end is met.
            source.read(1)
    except zipfile.BadZipFile as error:
        if "CRC" not in str(error):
            raise
        part = shown(os.path.basename(entry.filename))
        raise _DamageError(f"wrong checksum of {part}") from error
    return content


def _fill(content: Tensor, source: Any) -> None:
    view = memoryview(cast("Any", content.numpy()))
    for start in range(0, len(view), _CHUNK):
        part = source.read(min(_CHUNK, len(view) - start))
        view[start : start + len(part)] = part
        if len(part) < min(_CHUNK, len(view) - start):
            raise _DamageError("it ends too early")


def _read_old(file: BinaryIO) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then the numbers of each storage."""
    size = os.fstat(file.fileno()).st_size
    if [read_pickle(file).marks for _ in range(2)] != [_OLD_MAGIC, _OLD_VERSION]:
        raise ValueError("it does not begin as files of torch.save do")
    machine, content = (read_pickle(file) for _ in range(2))
    match machine.marks:
        case {"little_endian": True}:
            pass
        case _:
            raise ValueError("saved on a machine with another order of bytes")
    raw: dict[str, Tensor] = {}
    for key in read_pickle(file).marks:
        storage = content.storages[key]
        nbytes = storage.numel * storage.dtype.itemsize
        if int.from_bytes(file.read(8), "little") != storage.numel or nbytes > size:
            raise ValueError("its parts are larger than the file")
        raw[key] = torch.empty(nbytes, dtype=torch.uint8)
        _fill(raw[key], file)
    return content.values(lambda key, _: raw[key])


class RefusedObjectError(ValueError):
    """A pickle names a function or class that is no part of plain values.

    Attributes:
        name: the function or class.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"it holds a Python object, {name}")
        self.name = name


class Storage(NamedTuple):
    """The numbers of one tensor, or of several that share them.

    Attributes:
        key: its name in the file.
        dtype: type of the numbers.
        numel: how many there are.
    """

    key: str
    dtype: torch.dtype
    numel: int


class _Function(NamedTuple):
    """Stands for what a pickle names; immutable, so that a pickle cannot change it."""

    name: str

    def __call__(self, *arguments: Any) -> _Call:
        return _Call(self.name, arguments)


class _Call:
    """Stands for the result of a call, with what the pickle did to it."""

    __slots__ = ("arguments", "function", "items", "state")

    def __init__(self, function: str, arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments = function, arguments
        self.items: list[tuple[Any, Any]] = []
        self.state: Any = None

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), fix_imports=False, encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        self.named = ""

    def find_class(self, module: str, name: str) -> _Function:
        self.named = f"{module}.{name}"
        return _Function(self.named)

    def persistent_load(self, reference: Any) -> Storage:
        match reference:
            case ("storage", _Function(kind), str(key), _, int(numel), *view) if (
                view in ([], [None]) and numel >= 0
            ):
                module, _, storage = kind.rpartition(".")
                if module in ("torch", "torch.cuda") and storage in DTYPES:
                    found = Storage(key, DTYPES[storage], numel)
                    if self.storages.setdefault(key, found) != found:
                        raise ValueError("tensors disagree about the data that they share")
                    return found
                for part, what in _UNUSUAL_NUMBERS.items():
                    if storage.startswith(part):
                        raise _UnusualError(what)
                raise RefusedObjectError(kind)
        raise ValueError("a tensor refers to no storage")


class Pickled(NamedTuple):
    """The content of a pickle whose tensors have no numbers yet.

    Attributes:
        marks: plain values, and marks where calls stand.
        storages: what the tensors refer to, by key.
    """

    marks: Any
    storages: dict[str, Storage]

    def values(self, storages: Storages) -> Any:
        """Make the values.

        Args:
            storages: gives the bytes of a tensor's storage.

        Returns:
            Tensors on the CPU, also for NumPy's arrays; numbers, also for NumPy's; strings, None,
            lists, tuples, dicts and their subclasses ``OrderedDict`` and ``Counter``.

        Raises:
            RefusedObjectError: there is anything else.
            ValueError: a tensor does not lie within its storage, values contain themselves, are
                nested too deeply, or stand for too many.
        """
        return _Maker(storages).value(self.marks)


def read_pickle(file: BinaryIO) -> Pickled:
    """Read one pickle from a file, up to its end, without making any object of it.

    Args:
        file: open for reading, where the pickle begins.

    Raises:
        ValueError: it is damaged, or has what ``torch.save`` does not write.
        RefusedObjectError: it makes an object, or a storage has an unknown type.
    """
    start, has_objects = file.tell(), False
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number > _MOST_INSTRUCTIONS:
            raise ValueError(f"a pickle of more than {_MOST_INSTRUCTIONS:,} instructions")
        # The first one is refused when it is carried out, so nothing after it is.
        has_objects = has_objects or opcode.name in _OBJECTS
        if has_objects:
            continue
        if opcode.name not in _OPCODES:
            raise ValueError(f"pickle instruction {opcode.name}, which torch.save does not write")
        # Memory is reserved up to the largest index.
        if opcode.name.endswith("PUT") and int(argument or 0) > number:
            raise ValueError("a pickle with references that it cannot have")
    end = file.tell()
    file.seek(start)
    unpickler = _Unpickler(file.read(end - start))
    try:
        return Pickled(unpickler.load(), unpickler.storages)
    except (RefusedObjectError, _UnusualError):
        raise
    except Exception as error:
        if has_objects and unpickler.named:
            raise RefusedObjectError(unpickler.named) from error
        raise


def overlaps(size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether several entries of a tensor may be one number, which operations in place refuse.

    Args:
        size: of the tensor.
        stride: of the tensor, from 0.
    """
    reached = 0
    for step, side in sorted(zip(stride, size, strict=True)):
        if side > 1:
            if step <= reached:
                return True
            reached += (side - 1) * step
    return False


class _Maker:
    """Turns marks into values, each mark once, so that what is shared stays shared."""

    def __init__(self, storages: Storages) -> None:
        self._storages = storages
        self._of_key: dict[str, torch.UntypedStorage] = {}
        self._made: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()

    def value(self, mark: Any) -> Any:
        return self._value(mark, 0)[0]

    def _value(self, mark: Any, depth: int) -> tuple[Any, int]:
        """A value, and the number of values that it stands for."""
        if mark is None or type(mark) in (bool, int, float, str):
            return mark, 1
        if id(mark) in self._made:
            return self._made[id(mark)]
        if id(mark) in self._open or depth > _DEEPEST:
            raise ValueError("values that contain themselves or are nested too deeply")
        self._open.add(id(mark))
        made = self._new_value(mark, depth + 1)
        if made[1] > _MOST_VALUES:
            raise ValueError(f"it stands for more than {_MOST_VALUES:,} values")
        self._open.remove(id(mark))
        self._made[id(mark)] = made
        return made

    def _new_value(self, mark: Any, depth: int) -> tuple[Any, int]:
        if type(mark) in (list, tuple):
            made = [self._value(entry, depth) for entry in mark]
            return type(mark)(value for value, _ in made), 1 + sum(size for _, size in made)
        if type(mark) is dict:
            return self._mapping({}, mark.items(), depth)
        if not isinstance(mark, _Call):
            raise RefusedObjectError(getattr(mark, "name", type(mark).__name__))
        return self._of_call(mark, depth)

    def _of_call(self, call: _Call, depth: int) -> tuple[Any, int]:
        module, _, name = call.function.rpartition(".")
        arguments = call.arguments
        if module in _ARRAY_MODULES and not call.items:
            if name == "scalar" and call.state is None:
                return _array(arguments[0], (), arguments[1]).item(), 1
            if name == "_reconstruct":
                return _tensor_of_array(call), 1
        if call.function == "collections.OrderedDict":
            return self._ordered(call, depth)
        if call.state is None and not call.items:
            match call.function, arguments:
                # Of pickle's protocol 5.
                case "numpy.core.numeric._frombuffer" | "numpy._core.numeric._frombuffer", (
                    raw,
                    dtype,
                    tuple(shape),
                    ("C" | "F") as order,
                ):
                    array = _array(dtype, _whole_numbers(shape), raw, order)
                    return torch.from_numpy(array), 1
                case "collections.Counter", (dict(counts),):
                    return self._counter(counts, depth)
                case "torch.Size", (tuple(sides),):
                    return self._value(sides, depth)
                case "torch._utils._rebuild_parameter", (_Call() as data, _, _):
                    return self._value(data, depth)
                case "torch._utils._rebuild_tensor_v2", (
                    storage,
                    offset,
                    size,
                    stride,
                    _,
                    _,
                    *more,
                ):
                    if more not in ([], [None], [{}]):
                        raise _UnusualError("a tensor of numbers to be negated or conjugated")
                    return self._tensor(storage, offset, size, stride), 1
                case "torch._utils._rebuild_tensor", (storage, offset, size, stride):
                    return self._tensor(storage, offset, size, stride), 1
        if call.function in _UNUSUAL_TENSORS:
            raise _UnusualError(_UNUSUAL_TENSORS[call.function])
        raise RefusedObjectError(call.function)

    def _mapping(self, into: Any, items: Any, depth: int) -> tuple[Any, int]:
        total = 1
        for key, mark in items:
            if type(key) not in _KEYS:
                raise _UnusualError("a dict with other keys than text and numbers of Python")
            into[key], size = self._value(mark, depth)
            total += size + 1
        return into, total

    def _ordered(self, call: _Call, depth: int) -> tuple[Any, int]:
        pairs = call.items
        match call.arguments:
            case ():
                pass
            case (list(entries),) if all(type(e) in (list, tuple) and len(e) == 2 for e in entries):
                pairs = [*map(tuple, entries), *pairs]
            case _:
                raise ValueError("an ordered dict of other things than pairs")
        made, total = self._mapping(OrderedDict(), pairs, depth)
        match call.state:
            case None:
                pass
            case {"_metadata": metadata, **others} if not others:
                made._metadata, size = self._value(metadata, depth)
                _check_metadata(made._metadata)
                total += size
            case _:
                raise ValueError("an ordered dict has attributes that no state dict has")
        return made, total

    def _counter(self, counts: dict[Any, Any], depth: int) -> tuple[Any, int]:
        made, total = self._mapping(Counter(), counts.items(), depth)
        if any(type(count) is not int for count in made.values()):
            raise _UnusualError("a counter of other things than whole numbers")
        return made, total

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        if not isinstance(storage, Storage):
            raise ValueError("a tensor has no storage")
        sides, steps = _whole_numbers(size), _whole_numbers(stride)
        (start,) = _whole_numbers((offset,))
        if len(sides) != len(steps):
            raise ValueError("a tensor has sizes and strides of different number")
        numel = math.prod(sides)
        last = start + sum((side - 1) * step for side, step in zip(sides, steps, strict=True))
        # It could be as large as it says, whatever the file's size.
        if overlaps(sides, steps):
            raise _UnusualError("a tensor with the same number in several places, as of expand()")
        if numel > storage.numel or (numel and last >= storage.numel):
            raise ValueError("a tensor is larger than its data in the file")
        empty = torch.empty((0,), dtype=storage.dtype)
        return empty.set_(self._bytes(storage), start if numel else 0, sides, steps)

    def _bytes(self, storage: Storage) -> torch.UntypedStorage:
        if storage.key not in self._of_key:
            raw = self._storages(storage.key, storage.numel * storage.dtype.itemsize)
            if storage.dtype is torch.bool and bool((raw > 1).any()):
                raise ValueError("a tensor of truth values holds other numbers than 0 and 1")
            self._of_key[storage.key] = raw.untyped_storage()
        return self._of_key[storage.key]


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if isinstance(values, _Call) and values.function == "torch.Size":
        (values,) = values.arguments
    if type(values) is not tuple or not all(
        type(value) is int and 0 <= value < _LARGEST_SIDE for value in values
    ):
        raise ValueError("a tensor's sizes are not whole numbers from 0")
    return values


def _check_metadata(metadata: Any) -> None:
    """Of a state dict: the version of each module's format, by the module's name.

    PyTorch also takes orders from there, to put the file's tensors in the place of parameters.
    """
    fault = ValueError("a state dict with other attributes than versions")
    if not isinstance(metadata, dict):
        raise fault
    for module, entry in metadata.items():
        if not isinstance(module, str) or not isinstance(entry, dict) or entry.keys() - {"version"}:
            raise fault
        if not all(type(version) is int for version in entry.values()):
            raise fault


def _tensor_of_array(call: _Call) -> Tensor:
    match call.state:
        case (1, tuple(shape), dtype, bool(by_columns), raw):
            array = _array(dtype, _whole_numbers(shape), raw, "F" if by_columns else "C")
            return torch.from_numpy(array)
    raise ValueError("a NumPy array without its numbers")


def _array(
    dtype: Any, shape: tuple[int, ...], raw: Any, order: Any = "C"
) -> np.ndarray[Any, np.dtype[Any]]:
    """A NumPy array of its own memory, in this machine's byte order."""
    match raw:
        case _Call(function="_codecs.encode", arguments=(str(text), "latin1"), state=None):
            content = text.encode("latin1")
        case _Call(function="__builtin__.bytes", arguments=(), state=None):
            content = b""
        case bytes() | bytearray():
            content = bytes(raw)
        case _:
            raise ValueError("a NumPy value without its bytes")
    kind = _array_type(dtype)
    if len(content) != math.prod(shape) * kind.itemsize:
        raise ValueError("a NumPy value of another size than its bytes")
    array = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
    if kind.kind == "b" and (np.frombuffer(content, np.uint8) > 1).any():
        raise ValueError("a truth value that is neither 0 nor 1")
    return array.reshape(shape, order=order)


def _array_type(dtype: Any) -> np.dtype[Any]:
    match dtype:
        case _Call(
            function="numpy.dtype",
            arguments=(str(code), *_),
            state=(3, str(order), None, None, None, *_),
        ) if code in _ARRAY_TYPES and order in ("<", ">", "|", "="):
            return np.dtype(order + code)
    raise _UnusualError("NumPy values that are not plain numbers")
