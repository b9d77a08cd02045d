"""Affine maps between the frame of the whole image and the frame of the network's input.

Both frames are normalised: (0, 0) is the upper left corner and (1, 1) the lower right one of the
whole image, respectively of the part of the input that holds the image (padding excluded). A
geometry is a 2x3 matrix G with (x, y) = G (u, v, 1), where (u, v) is a point of the whole image
and (x, y) the same point in the input. A resize, whatever its aspect, is the identity.
Legend: 23 a 2x3 matrix, float64 while composing, float32 in a batch.
"""

import numpy as np

IDENTITY_23 = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
HORIZONTAL_FLIP_23 = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def crop_23(left: float, top: float, width: float, height: float) -> np.ndarray:
    """Geometry of cutting out a box, given in normalised coordinates of the frame it is cut from.

    Raises:
        ValueError: when the box has no area.
    """
    if width <= 0 or height <= 0:
        raise ValueError(f"a crop of {width} x {height} has no area")
    return np.array([[1.0 / width, 0.0, -left / width], [0.0, 1.0 / height, -top / height]])


def then(first_23: np.ndarray, second_23: np.ndarray) -> np.ndarray:
    """The geometry of doing `first` and then `second`."""
    return second_23[:, :2] @ first_23 + np.array([[0, 0, 1]]) * second_23[:, 2:]


def inverse(geometry_23: np.ndarray) -> np.ndarray:
    """The geometry from the input back to the whole image.

    Raises:
        ValueError: when the geometry collapses the image to a line.
    """
    linear = geometry_23[:, :2]
    if abs(np.linalg.det(linear)) < 1e-12:
        raise ValueError(f"geometry {geometry_23.tolist()} is not invertible")
    back = np.linalg.inv(linear)
    return np.concatenate([back, -back @ geometry_23[:, 2:]], axis=1)
