"""The update in C++ (native.cpp), for CPUs: the reference's operations, one pair after another.

The library has a plain C interface and is called through ctypes: it needs a compiler when the
package is installed and nothing of PyTorch, works with any version of it, and drops the GIL while
it runs. Where it was not built, `problem` says so and fused.py takes the PyTorch path.
Legend: as in batch.py.
"""

import ctypes
import functools
import importlib.machinery
import struct
from pathlib import Path

import torch

from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.fusions import FUSION_NUMBERS
from dist_oaa.attention.gates import GATE_NUMBERS, logit

CAM_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
LEVELS = {"baseline": 0, "avx2": 1, "avx512": 2}
OUT_OF_RANGE = 2  # what oaa_accumulate returns for a bad index


# `struct Batch` of native.cpp: 13 pointers, 4 strides, 5 counts, 8 small integers, the threshold.
_BATCH = struct.Struct("@13Q4q5q8if")


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The loaded library, or why there is none."""
    here = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = here / f"_native{suffix}"
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
                library.oaa_accumulate.argtypes = [ctypes.c_char_p, ctypes.c_int]
            except (OSError, AttributeError) as error:
                return f"cannot be loaded: {error}"
            return library
    return "was not built: a C++ compiler was missing when dist_oaa was installed"


def problem() -> str | None:
    """Why the C++ update cannot be used, such as `was not built: ...`, or None."""
    found = _library()
    return found if isinstance(found, str) else None


def update(bank: MapBank, seen: Observation, rules: Rules, level: str = "avx512") -> Outcome:
    """Applies one batch to the bank, in place.

    Args:
        level: the most that may be used of the processor's instruction set, see LEVELS.

    Raises:
        RuntimeError: when the library was not built.
        IndexError, MemoryError: before anything is changed.
    """
    library = _library()
    if isinstance(library, str):
        raise RuntimeError(f"the C++ update {library}")
    cam_BCHW = seen.cam_BCHW
    if cam_BCHW.dtype not in CAM_TYPES:
        cam_BCHW = cam_BCHW.float()
    pairs, flags_3P = seen.pairs, torch.empty(3, len(seen.pairs), dtype=torch.bool)
    tensors = (
        bank.grid_R2Q,
        bank.accepted_R,
        bank.fallback_R,
        bank.dirty_R,
        cam_BCHW,
        _plain(seen.logits_BC, torch.float32),
        _plain(seen.labels_BC, torch.uint8),
        _plain(seen.geometry_B23, torch.float32),
        _plain(seen.cells_B2, torch.int64),
        _plain(pairs.image_P, torch.int64),
        _plain(pairs.class_P, torch.int64),
        _plain(pairs.row_P, torch.int64),
        flags_3P,
    )  # kept until the call is over: their memory is passed by address
    batch = _BATCH.pack(
        *[tensor.data_ptr() for tensor in tensors],
        *cam_BCHW.stride(),
        bank.grid_R2Q.shape[2],
        len(bank.accepted_R),
        len(pairs),
        *cam_BCHW.shape,
        bank.map_size,
        bank.grid_R2Q.element_size(),
        CAM_TYPES[cam_BCHW.dtype],
        GATE_NUMBERS[rules.gate],
        FUSION_NUMBERS[rules.fusion],
        rules.fallback,
        logit(rules.tau),
    )
    status = library.oaa_accumulate(batch, LEVELS[level])
    if status == OUT_OF_RANGE:
        raise IndexError("a pair names an image, class, row or feature cell that does not exist")
    if status:
        raise MemoryError("no memory for the update of a batch")
    return Outcome(flags_3P)


def _plain(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor as native.cpp reads it: contiguous, of one type."""
    if tensor.dtype == dtype and tensor.is_contiguous():
        return tensor
    return tensor.to(dtype).contiguous()
