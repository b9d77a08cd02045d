"""All maps of one image in one .npy file: the dictionaries of IRN and of AffinityNet (PSA).

    IRN   ID.npy   {"keys": K class indices from 0, "cam": K x h x w, a torch tensor at a quarter of
                   the image's size, "high_res": K x H x W at its full size}
    PSA   ID.npy   {class index from 0: H x W, ...}

The values lie in [0, 1]. IRN's own code puts `cam` on a GPU without converting it, so it must be a
tensor. PSA's folders of CRF scores look alike, but count classes from 1 and have the background at
0: they hold no attention, and nothing in the files tells.

Shapes: K maps of one image, S cells of the store's grid along each side, H x W pixels of the image.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.store.mapfile import check_map
from dist_oaa.store.object_npy import read_dictionary

KEYS, STRIDED, FULL = "keys", "cam", "high_res"
STRIDE = 4
FORMATS = ("irn", "psa")


def read_maps(path: Path) -> dict[int, np.ndarray]:
    """The maps of a dictionary of either kind by class index: H x W, uint8 or float in [0, 1].

    Of IRN's two sizes the full one is taken, where it is there.

    Raises:
        UserError: the file is refused or damaged (see object_npy.py), or holds no such maps.
    """
    found = read_dictionary(path)
    maps = _of_irn(path, found) if KEYS in found else found
    for index, map_HW in maps.items():
        if not isinstance(index, int | np.integer) or isinstance(index, bool) or index < 0:
            raise UserError(
                f"{path} has the key {str(index)[:40]!r}, expected class indices from 0, or "
                f"{KEYS!r} with {FULL!r} or {STRIDED!r}"
            )
        if not isinstance(map_HW, np.ndarray):
            raise UserError(f"{path}: class {index} has no array, expected a map")
        check_map(map_HW, f"{path}: the map of class {index}")
    return {int(index): map_HW for index, map_HW in maps.items()}


def _of_irn(path: Path, found: Mapping[Any, Any]) -> dict[int, np.ndarray]:
    keys, maps = found[KEYS], found.get(FULL, found.get(STRIDED))
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype.kind not in "iu":
        raise UserError(f"{path}: {KEYS!r} is no list of class indices")
    if not isinstance(maps, np.ndarray) or maps.ndim != 3 or len(maps) != len(keys):
        raise UserError(
            f"{path}: neither {FULL!r} nor {STRIDED!r} is an array of {len(keys)} maps, one for "
            f"each of {KEYS!r}"
        )
    if len(set(keys.tolist())) < len(keys):
        raise UserError(f"{path}: {KEYS!r} names a class twice, expected each once")
    return dict(zip(keys.tolist(), maps, strict=True))


def write_maps(
    path: Path, kind: str, maps: Mapping[int, np.ndarray], size: tuple[int, int] | None
) -> None:
    """Writes the maps of one image as a dictionary.

    Args:
        kind: one of FORMATS.
        maps: class index -> S x S, uint8 (255 stands for 1) or float in [0, 1].
        size: height and width of the image, to which the maps are resized bilinearly; None leaves
            them on their grid.

    Raises:
        OSError: the disk is full or not writable.
    """
    import torch  # here: other formats do not need it

    attention = {c: _as_float(map_SS) for c, map_SS in sorted(maps.items())}
    full = {c: _resized(map_SS, size) for c, map_SS in attention.items()}
    content: dict[Any, Any] = full
    if kind == "irn":
        strided = size and tuple((side - 1) // STRIDE + 1 for side in size)
        cam_Khw = np.stack([_resized(map_SS, strided) for map_SS in attention.values()])
        content = {
            KEYS: np.array(list(full), np.int64),
            STRIDED: torch.from_numpy(cam_Khw),
            FULL: np.stack(list(full.values())),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_npy_bytes(content))


def _as_float(map_SS: np.ndarray) -> np.ndarray:
    scale = np.float32(255 if map_SS.dtype == np.uint8 else 1)
    return map_SS.astype(np.float32) / scale


def _resized(map_SS: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or map_SS.shape == size:
        return map_SS
    # Rounding may leave [0, 1] by a hair, which readers refuse.
    return cv2.resize(map_SS, size[::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)


def _npy_bytes(content: dict[Any, Any]) -> bytes:
    """What np.save writes, for numpy of any age.

    numpy 2 names its module numpy._core in pickles, which the numpy 1 of those programs' days
    cannot import, while numpy 2 still knows the old name. In protocol 3 a name is a line of text
    without a length before it, named once and then referred to.
    """
    boxed = np.empty((), object)
    boxed[()] = content
    pickled = pickle.dumps(boxed, protocol=3)
    pickled = pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
    stream = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + pickled
