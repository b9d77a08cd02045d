"""Dictionaries that other programs have saved with np.save, read without running what they hold.

`np.save(path, {...})` writes a pickle, and `np.load(allow_pickle=True)` does whatever the pickle
says: delete files, for instance. Here the pickle is taken apart by an unpickler that knows nine
names, all of which stand for functions and classes of this file. Nothing else is ever imported or
called, and neither numpy nor torch is handed a type or a shape that was not checked before.

Known are arrays and scalars as numpy 1 and numpy 2 write them (they spell their modules
differently), bytes as numpy wrote them before 1.17, and torch tensors, which IRN puts beside its
arrays without converting them.
"""

import ast
import io
import math
import pickle
import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dist_oaa.config.errors import UserError, in_one_line

LARGEST_FILE = 1 << 30
"""Bytes; a dictionary of maps has a few million."""
NUMBERS = frozenset(["f2", "f4", "f8", "b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
"""Number formats that an array may have, in numpy's spelling without the byte order."""
# What cut, empty or odd files raise, from the header to the last number.
DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, EOFError, RuntimeError,
    SyntaxError, OverflowError, MemoryError, ImportError, RecursionError, pickle.UnpicklingError,
)  # fmt: skip


class UnsafePickleError(ValueError):
    """A pickle that asks for more than arrays; the message is the end of a sentence."""


def holds_object(path: Path) -> bool:
    """Whether a .npy file holds a Python object by its header, which alone is read.

    A file without such a header is none: whoever reads it as an array says what is wrong with it.
    """
    try:
        with open(path, "rb") as stream:
            return _header(stream)["descr"] == "|O"
    except DAMAGE:
        return False


def read_dictionary(path: Path) -> dict[Any, Any]:
    """The dictionary in a .npy file; arrays and tensors in it become numpy arrays.

    Raises:
        UserError: the file cannot be read, holds no dictionary, or asks for anything else than
            numbers, text, arrays and tensors.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE >> 30} GiB")
        with open(path, "rb") as stream:
            if _header(stream)["descr"] != "|O":
                raise ValueError("it holds an array, expected a dictionary")
            found = plain(load_safely(stream.read()))
    except UnsafePickleError as error:
        raise UserError(
            f"{path} is refused: {error}, expected a dictionary of numbers and arrays alone"
        ) from error
    except DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} is damaged: {in_one_line(reason)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, expected a dictionary")
    return found


def load_safely(data: bytes) -> Any:
    """What a pickle describes, made of built-in values and of `Array`s.

    Raises:
        UnsafePickleError: it names anything that is not known, or would take absurd memory.
        Others of DAMAGE: it is cut or otherwise broken.
    """
    _look_over(data)
    return _Unpickler(io.BytesIO(data)).load()


def _look_over(data: bytes) -> None:
    """Refuses what would take memory or time out of all proportion to the bytes of a pickle."""
    before, numbered, tuples = "", 0, set()
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if "PUT" in name or name == "MEMOIZE":
            number = numbered if argument is None else argument
            # The memo is an array as long as its largest number, which four bytes can make 64 GiB.
            if number > len(data):
                raise UnsafePickleError("its pickle numbers more values than it has bytes")
            numbered += 1
            if before.startswith("TUPLE"):
                tuples.add(number)
        # Tuples of the same tuple twice, forty deep, take a thousand years to hash.
        shares = name == "DUP" or ("GET" in name and argument in tuples)
        if shares or name.startswith("EXT"):
            raise UnsafePickleError("its pickle shares tuples or uses the extension registry")
        before = name


def plain(value: Any) -> Any:
    """An object array of one value as that value; the `Array`s of a dictionary as arrays."""
    if isinstance(value, Array) and isinstance(value.values, list) and len(value.values) == 1:
        value = value.values[0]
    if not isinstance(value, dict):
        return value
    found = {key: held.values if isinstance(held, Array) else held for key, held in value.items()}
    if any(isinstance(held, dict | list) for held in found.values()):
        raise ValueError("it holds lists or dictionaries of its own")
    return found


class NumberFormat:
    """Stands for numpy.dtype: a spelling that is checked before numpy sees it."""

    def __init__(self, spelling: str = "", *_: Any) -> None:
        if not isinstance(spelling, str):
            raise UnsafePickleError("its pickle has an array of a type without a name")
        self.spelling, self.order = spelling, "|"

    def __setstate__(self, state: tuple) -> None:
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts):
            raise UnsafePickleError("its pickle has an array of more than one number a place")
        self.order = order

    @property
    def is_object(self) -> bool:
        return self.spelling in ("O8", "O4", "O")

    def numpy(self) -> np.dtype:
        """The type, one of NUMBERS."""
        if self.spelling not in NUMBERS:
            raise UnsafePickleError(f"its pickle has an array of the type {self.spelling!r:.60}")
        return np.dtype(self.order.replace("|", "=") + self.spelling)


class Array:
    """Stands for numpy.ndarray: `values` is an array of numbers, or the list of an object array."""

    def __init__(self) -> None:
        self.values: np.ndarray | list | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, in_columns, data = state
        if not isinstance(kind, NumberFormat) or not _are_counts(shape):
            raise UnsafePickleError("its pickle has an array without a type or a shape")
        if kind.is_object:
            if not isinstance(data, list) or math.prod(shape) != len(data):
                raise ValueError("an object array does not hold what its shape says")
            self.values = data
            return
        values_N = np.frombuffer(data, kind.numpy())
        if len(values_N) != math.prod(shape):
            raise ValueError(f"an array of the shape {shape} has {len(values_N)} numbers")
        self.values = values_N.reshape(shape, order="F" if in_columns else "C")


class _Unpickler(pickle.Unpickler):
    """Finds no name but those of `_known`.

    They are bound methods and classes with a __setstate__ of their own: a pickle cannot set
    attributes on either.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = self._known().get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise UnsafePickleError(f"its pickle asks for {f'{module}.{name}'!r:.100}")
        return found

    def _known(self) -> dict[tuple[str, str], Callable]:
        return {
            ("numpy.core.multiarray", "_reconstruct"): self._array,
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy", "ndarray"): Array,
            ("numpy", "dtype"): NumberFormat,
            ("_codecs", "encode"): self._bytes,
            ("__builtin__", "bytes"): self._no_bytes,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch.storage", "_load_from_bytes"): self._storage,
            ("collections", "OrderedDict"): self._no_hooks,
        }

    def _array(self, *_: Any) -> Array:
        return Array()  # its __setstate__ follows

    def _scalar(self, kind: NumberFormat, data: bytes) -> float | int | bool:
        return np.frombuffer(data, kind.numpy())[0].item()

    def _bytes(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise UnsafePickleError("its pickle has bytes in another encoding than latin-1")
        return text.encode("latin-1")

    def _no_bytes(self) -> bytes:
        return b""  # of an empty array; bytes itself would make as many as it is told

    def _no_hooks(self) -> dict:
        return {}  # a tensor's hooks, which none of these files can have

    def _storage(self, data: bytes) -> Any:
        import torch  # here: files of numpy alone do not need it

        # A pickle of its own, which torch's restricted unpickler reads.
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def _tensor(self, storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Array:
        import torch

        if not isinstance(storage, torch.storage.TypedStorage):
            raise UnsafePickleError("its pickle has a tensor without numbers")
        if not _are_counts((offset,)) or not _are_counts(size) or not _are_counts(stride):
            raise UnsafePickleError("its pickle has a tensor without a shape")
        with warnings.catch_warnings():
            # Old files hold typed storages, and torch says so at every touch.
            warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
            # set_ would enlarge a storage that is too short for the size and the stride.
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            if math.prod(size) and last >= len(storage):
                raise ValueError(f"a tensor of the shape {size} has {len(storage)} numbers")
            tensor = torch.empty(0, dtype=storage.dtype).set_(storage, offset, size, stride)
        array = Array()
        array.values = tensor.contiguous().numpy()
        return array


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, tuple) and all(type(n) is int and n >= 0 for n in numbers)


def _header(stream: io.BufferedReader) -> dict[str, Any]:
    """The dictionary at the beginning of a .npy file; what follows is left unread."""
    reader = np.lib.format
    version = reader.read_magic(stream)
    length = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
    if length > 10_000:
        raise ValueError("its header is no header of a .npy file")
    header = ast.literal_eval(stream.read(length).decode("latin1"))
    if not isinstance(header, dict) or "descr" not in header:
        raise ValueError("its header is no header of a .npy file")
    return header
