"""The update in C++ (native.cpp), for CPUs: the reference's operations, one pair after another.

The library has a plain C interface and is called through ctypes: it needs a compiler when the
package is installed and nothing of PyTorch, works with any version of it, and drops the GIL while
it runs. Where it was not built, `problem` says so and fused.py takes the PyTorch path.
Legend: as in batch.py.
"""

import ctypes
import functools
import importlib.machinery
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch

from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.fusions import FUSION_NUMBERS
from dist_oaa.attention.gates import GATE_NUMBERS, logit

CAM_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
LEVELS = {"baseline": 0, "avx2": 1, "avx512": 2}
OUT_OF_RANGE = 2  # what oaa_accumulate returns for a bad index


class _Batch(ctypes.Structure):
    """`struct Batch` of native.cpp, field by field."""

    _fields_ = [
        *((name, c_void_p) for name in (
            "grid", "accepted", "fallen", "dirty", "cam", "logits", "labels", "geometry",
            "cells", "image", "class_", "row", "flags")),
        ("cam_stride", c_int64 * 4),
        *((name, c_int64) for name in ("pitch", "rows", "pairs", "images", "classes")),
        *((name, c_int32) for name in (
            "height", "width", "map_size", "grid_bytes", "cam_type", "gate", "fusion",
            "fallback")),
        ("threshold", c_float),
    ]  # fmt: skip


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The loaded library, or why there is none."""
    here = Path(__file__).parent
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = here / f"_native{suffix}"
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
                library.oaa_accumulate.argtypes = [POINTER(_Batch), ctypes.c_int]
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
    pairs = seen.pairs
    # What the pointers below point into must stay alive, and be laid out as native.cpp expects.
    inputs = [
        seen.logits_BC.float().contiguous(),
        seen.labels_BC.to(torch.uint8).contiguous(),
        seen.geometry_B23.float().contiguous(),
        seen.cells_B2.contiguous(),
        pairs.image_P.contiguous(),
        pairs.class_P.contiguous(),
        pairs.row_P.contiguous(),
    ]
    flags_3P = torch.empty(3, len(pairs), dtype=torch.bool)
    tensors = (bank.grid_R2Q, bank.accepted_R, bank.fallback_R, bank.dirty_R, cam_BCHW, *inputs)
    batch = _Batch(
        *(tensor.data_ptr() for tensor in tensors),
        flags_3P.data_ptr(),
        (c_int64 * 4)(*cam_BCHW.stride()),
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
    status = library.oaa_accumulate(ctypes.byref(batch), LEVELS[level])
    if status == OUT_OF_RANGE:
        raise IndexError("a pair names an image, class, row or feature cell that does not exist")
    if status:
        raise MemoryError("no memory for the update of a batch")
    return Outcome(flags_3P)
