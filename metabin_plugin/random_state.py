"""The random generators of the process: read for a checkpoint, put back, and lent out."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_BYTES = 16
# Of the Mersenne Twister, which Python and NumPy both have.
_WORDS = 624


class _Generators(NamedTuple):
    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: Tensor


def mix_seeds(*parts: int | str | None) -> int:
    """Make one seed of many parts.

    Args:
        *parts: any numbers and names; their order matters.

    Returns:
        A number in [0, 2**128). That two different lists of parts give the same one is as unlikely
        as for a cryptographic hash.
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_BYTES).digest(), "little")


def capture() -> dict[str, Any]:
    """Read the generators of Python, NumPy and PyTorch.

    Returns:
        Tensors and plain numbers only, which ``read_weight_file`` reads. ``"cuda"`` is
        the generator of this process's current device, or None before CUDA is used.
    """
    generators = _read()
    version, words, gauss = generators.python
    numpy_state = generators.numpy
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "key": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            "position": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": generators.torch,
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def check(state: Any) -> None:
    """Refuse what ``capture`` does not return.

    Args:
        state: plain values, of a checkpoint.

    Raises:
        ValueError: the text names the generator.
    """
    match state:
        case {
            "python": {"version": version, "words": Tensor() as words, "gauss": gauss},
            "numpy": {
                "key": key,
                "position": position,
                "has_gauss": has_gauss,
                "gauss": float(numpy_gauss),
            },
            "torch": torch_state,
            "cuda": cuda,
        }:
            pass
        case _:
            raise ValueError("is not the states of python, numpy, torch and cuda")
    # The last of Python's words is the position among the others.
    is_of_python = type(version) is int and version == 3 and words.shape == (_WORDS + 1,)
    if not is_of_python or not is_twister_state(words[:-1], words[-1].item(), gauss):
        raise ValueError("python is not a state of Python's generator")
    # NumPy itself would read on behind the last word.
    is_of_numpy = type(has_gauss) is int and has_gauss in (0, 1)
    if not is_of_numpy or not is_twister_state(key, position, numpy_gauss):
        raise ValueError("numpy is not a state of NumPy's generator")
    try:
        torch.Generator().set_state(torch_state)
    except (RuntimeError, TypeError) as error:
        raise ValueError("torch is not a state of PyTorch's generator") from error
    # Seed and offset; PyTorch checks it where there is CUDA.
    if cuda is not None and not (
        isinstance(cuda, Tensor) and cuda.dtype is torch.uint8 and cuda.shape == (16,)
    ):
        raise ValueError("cuda is not a state of CUDA's generator")


def restore(state: dict[str, Any]) -> None:
    """Put the generators back to a state, bit for bit.

    The CUDA generator is left alone if the state has none, or if there is no CUDA.

    Args:
        state: what ``capture`` returned, in this or in another process.
    """
    python, numpy_state = state["python"], state["numpy"]
    key = numpy_state["key"].numpy().astype(np.uint32)
    _write(
        _Generators(
            (python["version"], tuple(python["words"].tolist()), python["gauss"]),
            {
                "bit_generator": "MT19937",
                "state": {"key": key, "pos": numpy_state["position"]},
                "has_gauss": numpy_state["has_gauss"],
                "gauss": numpy_state["gauss"],
            },
            state["torch"],
        )
    )
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def reseed(seed: int) -> None:
    """Seed the three CPU generators.

    Args:
        seed: not negative, of any size.
    """
    # Python and NumPy have the same generator: one seed for both would give equal numbers.
    random.seed(mix_seeds(seed, "python"))
    words = mix_seeds(seed, "numpy").to_bytes(_BYTES, "little")
    np.random.seed(np.frombuffer(words, "<u4"))
    # torch.manual_seed() would seed the CUDA generators too.
    torch.default_generator.manual_seed(mix_seeds(seed, "torch") % 2**63)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Inside, the three CPU generators are seeded; afterwards they are as they were before.

    Args:
        seed: not negative, of any size.
    """
    outside = _read()
    reseed(seed)
    try:
        yield
    finally:
        _write(outside)


def is_twister_state(words: Any, position: Any, gauss: Any = None) -> bool:
    """Whether these can be the state of a Mersenne Twister, as NumPy and Python have it.

    Args:
        words: its 624 words, int64.
        position: number of the next one, a whole number.
        gauss: the second number of the last normal pair; None without.
    """
    return (
        isinstance(words, Tensor)
        and words.dtype is torch.int64
        and words.shape == (_WORDS,)
        and bool(((words >= 0) & (words < 2**32)).all())
        and type(position) is int
        and 0 <= position <= _WORDS
        and (gauss is None or (type(gauss) is float and math.isfinite(gauss)))
    )


class PrivateRandomness:
    """A context in which the three CPU generators go on where its last visit left them.

    Code that draws from the generators of the process can so be run in steps, and neither it nor
    the rest of the process notices the other. The object is entered by one visitor at a time.

    Args:
        seed: seed of the first visit, not negative, of any size.
    """

    def __init__(self, seed: int) -> None:
        with isolated(seed):
            self._inside = _read()

    def __enter__(self) -> None:
        self._outside = _read()
        _write(self._inside)

    def __exit__(self, *error: object) -> None:
        self._inside = _read()
        _write(self._outside)


def _read() -> _Generators:
    return _Generators(
        random.getstate(),
        dict(np.random.get_state(legacy=False)),
        torch.default_generator.get_state(),
    )


def _write(generators: _Generators) -> None:
    random.setstate(generators.python)
    np.random.set_state(generators.numpy)
    torch.default_generator.set_state(generators.torch)
