"""How good a classifier is: mean average precision, and accuracy where images have one class.

Shapes: N images, C classes.
"""

import numpy as np

from dist_oaa.evaluation.counts import mean_where_defined


def mean_average_precision(
    scores_NC: np.ndarray, labels_NC: np.ndarray
) -> tuple[float, np.ndarray]:
    """Average precision of each class, sum over n of (R_n - R_{n-1}) P_n, and its mean.

    Args:
        scores_NC: (N, C) float, any monotone score: logits or probabilities.
        labels_NC: (N, C), 1 where the image holds the class, else 0.

    Returns:
        The mean over the classes with at least one positive image (nan where there is none), and
        (C,) float64 with nan for the classes without.

    Raises:
        ValueError: shapes that differ, scores that are not finite, labels other than 0 and 1.
    """
    scores_NC, labels_NC = np.asarray(scores_NC), np.asarray(labels_NC)
    if scores_NC.ndim != 2 or scores_NC.shape != labels_NC.shape:
        raise ValueError(
            f"scores {scores_NC.shape} and labels {labels_NC.shape} should both be "
            "(images, classes)"
        )
    if not np.isfinite(scores_NC).all():
        raise ValueError("scores hold values that are not finite")
    if not np.isin(labels_NC, (0, 1)).all():
        raise ValueError("labels hold values other than 0 and 1")
    precision_C = np.full(scores_NC.shape[1], np.nan)
    for c in np.flatnonzero(labels_NC.any(0)):
        precision_C[c] = _average_precision(scores_NC[:, c], labels_NC[:, c])
    return float(mean_where_defined(precision_C)), precision_C


def top_k_accuracy(scores_NC: np.ndarray, class_N: np.ndarray, k: int) -> float:
    """Share of the images whose class is among the k of the highest scores.

    A class that ties with others counts as the last of them, so that a classifier that says the
    same of all classes is never right.

    Args:
        scores_NC: (N, C), any monotone score; N of 1 or more.
        class_N: (N,) the class of each image.
        k: a count, 1 or more; with C classes or fewer every image counts as right.
    """
    true_N1 = np.take_along_axis(scores_NC, np.asarray(class_N)[:, None], axis=1)
    return float(((scores_NC >= true_N1).sum(axis=1) <= k).mean())


def _average_precision(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    # Imported here: torchmetrics takes seconds to load and few commands need it.
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    # torchmetrics squashes logits through a sigmoid, which makes large ones equal. Only their
    # order matters, so hand it ranks from 0 to 1, equal scores keeping equal ranks.
    values, rank_N = np.unique(scores_N, return_inverse=True)
    return binary_average_precision(
        torch.from_numpy(rank_N / len(values)), torch.from_numpy(labels_N.astype(np.int64))
    ).item()
