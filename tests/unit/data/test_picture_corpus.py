"""A corpus of odd, damaged and hostile pictures: read rightly, or refused in one sentence."""

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_corpus import encoded, odd, refused, scene

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.augment import prepare
from dist_oaa.data.images import BadImageError, read_image, read_size
from dist_oaa.data.loader import Collate, PreparedImages, check_bad_images
from dist_oaa.data.sample import ImageSet, Sample

ODD, REFUSED = list(odd()), list(refused())
MEMORY_MB = 128
"""What reading any picture of the corpus may take beyond the interpreter itself."""


def sentence_of(error: Exception, path: Path) -> str:
    sentence = str(error)
    assert sentence.startswith(f"{path} cannot be read as an image: ")
    assert "\n" not in sentence
    assert len(sentence) < 400 + len(str(path))
    return sentence


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name)
def test_odd_pictures_are_read_as_a_viewer_shows_them(case, tmp_path):
    path = tmp_path / "x.jpg"  # whatever the suffix says
    path.write_bytes(case.data)
    image_HW3 = read_image(path, 80)
    assert image_HW3.dtype == np.uint8
    assert image_HW3.shape == (*case.shape, 3)
    assert read_size(path) == case.shape
    if case.mean is not None:
        assert abs(image_HW3.mean() - case.mean) < 2
    for resize in ("short_side", "square"):
        prepared_HW3, geometry_23 = prepare(image_HW3, DataConfig(resize=resize, size=64), 16, None)
        assert max(prepared_HW3.shape) <= 64 * 2.5
        assert np.isfinite(geometry_23).all()


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_is_no_picture_is_refused_in_a_sentence(case, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(case.data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImageError) as caught:
            read_image(path, 80)
    sentence_of(caught.value, path)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG"]),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), min_size=1, max_size=6),
)
def test_flipped_bits_give_a_picture_or_a_sentence(kind, flips, tmp_path_factory):
    data = bytearray(encoded(scene(), kind))
    for place, bit in flips:
        data[int(place * len(data))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's remarks on damaged EXIF
        try:
            image_HW3 = read_image(path, 1)
        except BadImageError as error:
            sentence_of(error, path)
        else:
            assert image_HW3.shape == (*read_size(path), 3)
            assert image_HW3.size <= 3e6


@settings(max_examples=200, deadline=None)
@given(
    head=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6 ",
                          b"RIFF\x40\0\0\0WEBPVP8 ", b""]),
    rest=st.binary(max_size=200),
)  # fmt: skip
def test_noise_behind_a_known_beginning(head, rest, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(head + rest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(BadImageError):
            assert read_image(path, 0.1).size <= 3e5


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(BadImageError, match="it is a pipe, expected a file"):
        read_image(tmp_path / "x.jpg", 80)


def test_bad_pictures_are_counted_with_their_labels_left_out(tmp_path):
    """Of the whole corpus in one batch: those that can be read, with their own labels."""
    cases = [case for case in (*ODD, *REFUSED) if len(case.data) < 50_000]
    samples = []
    for number, case in enumerate(cases):
        path = tmp_path / f"{number:03d}.jpg"
        path.write_bytes(case.data)
        samples.append(Sample(f"{number:03d}", path, (number % 3,), None))
    image_set = ImageSet(tmp_path, ("a", "b", "c"), tuple(samples), "test")
    images = PreparedImages(image_set, DataConfig(size=32), 16, seed=0)
    batch = Collate(image_set)([images[(i, 0)] for i in range(len(samples))])
    good = [number for number, case in enumerate(cases) if case.shape]
    assert batch.ids == [f"{number:03d}" for number in good]
    assert batch.labels_BC.argmax(dim=1).tolist() == [number % 3 for number in good]
    assert len(batch.bad) == len(cases) - len(good) > 40
    check_bad_images(batch.bad, "skip")
    with pytest.raises(UserError, match=r"cannot be read as an image.*data\.on_bad_image"):
        check_bad_images(batch.bad, "stop")


PROBE = f"""
import resource, sys, tempfile
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from dist_oaa.data.images import BadImageError, read_image, read_size
import numpy, PIL.Image
from picture_corpus import odd, refused
path = Path(tempfile.mkdtemp()) / "x"
cases = [*odd(), *refused()]
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = size + {MEMORY_MB} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
counts = [0, 0]
for case in cases:
    path.write_bytes(case.data)
    try:
        read_image(path, 80)
        counts[0] += 1
    except BadImageError:
        counts[1] += 1
print(*counts)
try:
    numpy.ones({MEMORY_MB} * 2**21, numpy.uint8)
except MemoryError:
    print("bounded")
"""


def test_no_picture_takes_more_memory_than_is_stated():
    """In a process of its own, whose address space cannot grow by more; bombs unfold to 300 MB."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(len(ODD)), str(len(REFUSED)), "bounded"]
