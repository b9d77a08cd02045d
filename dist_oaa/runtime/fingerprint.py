"""The identity of a set of labelled images, the same wherever it is computed."""

import hashlib
import json
from collections.abc import Iterable, Sequence


def labels_fingerprint(
    class_names: Sequence[str], labels: Iterable[tuple[str, Sequence[int]]]
) -> str:
    """SHA-256 in hex over the class names and the (image name, class indices) sorted by name.

    Neither the order of the images nor the place of the data set changes it.
    """
    digest = hashlib.sha256(json.dumps(list(class_names)).encode())
    for name, classes in sorted(labels):
        digest.update(b"\n" + json.dumps([name, *classes]).encode())
    return digest.hexdigest()
