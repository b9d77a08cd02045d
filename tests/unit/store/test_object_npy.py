"""Dictionaries in .npy files: what numpy reads, and nothing that runs."""

import contextlib
import io
import os
import pickle
import struct
import subprocess
import time
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.store.object_npy import holds_object, read_dictionary

HEADER = {"descr": "|O", "fortran_order": False, "shape": ()}


def write_pickle(path: Path, pickled: bytes) -> Path:
    """A .npy file with this pickle in it."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, HEADER)
        stream.write(pickled)
    return path


def boxed(value: object) -> np.ndarray:
    box = np.empty((), object)
    box[()] = value
    return box


ARRAYS = {
    "keys": np.array([3, 7]),
    "strided": np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::2, 1:],
    "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big endian": np.arange(5, dtype=">f8"),
    "half": np.array([0.5], np.float16),
    "empty": np.zeros((0, 4), np.float32),
    5: np.array(7, np.uint8),
    "truth": np.array([True, False]),
}


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].shape == value.shape
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_arrays_as_both_numpys_spell_them(tmp_path, protocol, module):
    # Up to protocol 3, names are lines of text; the later ones carry their length.
    pickled = pickle.dumps(boxed(ARRAYS), protocol)
    if protocol == 4:
        pickled = pickle.dumps(boxed(ARRAYS), 4)
        name = b"numpy._core.multiarray"
        new = module + b".multiarray"
        pickled = pickled.replace(bytes([len(name)]) + name, bytes([len(new)]) + new)
        pickled = without_frame(pickled, len(name) - len(new))
    else:
        pickled = pickled.replace(b"cnumpy._core", b"c" + module)
    assert (module + b".multiarray") in pickled
    assert_same(read_dictionary(write_pickle(tmp_path / "x.npy", pickled)), ARRAYS)


def without_frame(pickled: bytes, shorter: int) -> bytes:
    """Mends the length of the first frame (bytes 3 to 10) of a protocol-4 pickle."""
    assert pickled[2:3] == b"\x95"
    length = struct.unpack("<Q", pickled[3:11])[0]
    return pickled[:3] + struct.pack("<Q", length - shorter) + pickled[11:]


def test_what_np_save_writes(tmp_path):
    np.save(tmp_path / "x.npy", ARRAYS)
    assert_same(read_dictionary(tmp_path / "x.npy"), ARRAYS)
    assert holds_object(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", ARRAYS["keys"])
    assert not holds_object(tmp_path / "y.npy")
    assert not holds_object(tmp_path / "nowhere.npy")


def test_tensors_as_irn_leaves_them(tmp_path, recwarn):
    whole = torch.rand(4, 5, 6)
    tensors = {"keys": torch.tensor([1, 5]), "cam": whole[[1, 3]], "view": whole[1:3, :, 2:5]}
    np.save(tmp_path / "x.npy", tensors)
    found = read_dictionary(tmp_path / "x.npy")
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(found[key], tensor.numpy())
    assert not [w for w in recwarn if "TypedStorage" in str(w.message)]


def test_scalars_and_text(tmp_path):
    np.save(tmp_path / "x.npy", {np.int64(3): np.float32(0.5), "name": "x", "none": None, 2: 1.5})
    assert read_dictionary(tmp_path / "x.npy") == {3: 0.5, "name": "x", "none": None, 2: 1.5}


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def payloads(trace: Path) -> dict[str, bytes]:
    touch = f"touch {trace}"
    nested = pickle.dumps(Calls(os.system, touch))
    return {
        "system": pickle.dumps(Calls(os.system, touch)),
        "in a dictionary": pickle.dumps(boxed({"keys": Calls(os.system, touch)})),
        "popen": pickle.dumps(Calls(subprocess.Popen, ["touch", str(trace)])),
        "eval": pickle.dumps(Calls(eval, f"open({str(trace)!r}, 'w')")),
        "open": pickle.dumps(Calls(open, str(trace), "w")),
        "another loader": pickle.dumps(Calls(np.load, str(trace), None, True)),
        "pickle in pickle": pickle.dumps(Calls(pickle.loads, nested)),
        "getattr": pickle.dumps(Calls(getattr, "text", "upper")),
        "old protocol": pickle.dumps(Calls(os.system, touch), 0),
        "instance": b"(S'" + touch.encode() + b"'\nios\nsystem\n.",
        "extension": b"\x80\x02\x82\x01.",
        "torch storage": pickle.dumps(
            Calls(torch.storage._load_from_bytes, nested_torch(Calls(os.system, touch)))
        ),
    }


def nested_torch(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


@pytest.mark.parametrize("name", list(payloads(Path("x"))))
def test_a_payload_is_refused_in_one_sentence_and_never_run(tmp_path, name):
    trace = tmp_path / "trace"
    path = write_pickle(tmp_path / "x.npy", payloads(trace)[name])
    with pytest.raises(UserError, match=r"x\.npy is (refused|damaged): ") as caught:
        read_dictionary(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not trace.exists()


def test_the_payload_would_have_run(tmp_path):
    trace = tmp_path / "trace"
    path = write_pickle(tmp_path / "x.npy", payloads(trace)["in a dictionary"])
    np.load(path, allow_pickle=True)
    assert trace.exists()


def hashes_for_ever() -> bytes:
    """A dictionary whose key is a tuple of one tuple twice, sixty deep."""
    levels = b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
    return b"\x80\x02}(" + b")" + levels + b"K\x01u."


@pytest.mark.parametrize(
    "pickled",
    [
        hashes_for_ever(),
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # 2^63 - 1 bytes
        b"(" * 50_000 + b".",
        b"]" * 50_000 + b"a" * 49_999 + b".",
    ],
)
def test_bombs_are_refused_at_once(tmp_path, pickled):
    began = time.monotonic()
    with pytest.raises(UserError, match=r"x\.npy (is|holds)"):
        read_dictionary(write_pickle(tmp_path / "x.npy", pickled))
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("pickled", [b"\x80\x02}r\xff\xff\xff\x7f.", b"}p99999999999\n."])
def test_a_memo_of_64_gib_is_not_made(tmp_path, pickled):
    with pytest.raises(UserError, match="numbers more values than it has bytes"):
        read_dictionary(write_pickle(tmp_path / "x.npy", pickled))


def array_pickle(shape: tuple, spelling: str, data: object) -> bytes:
    """An array with any state, as numpy would pickle it."""
    state = Calls(np.dtype, spelling, False, True)
    return pickle.dumps({"keys": Raw((1, shape, state, False, data))}, 2)


class Raw:
    """Pickles as an array that is given this state."""

    def __init__(self, state: tuple) -> None:
        self.state = state

    def __reduce__(self):
        return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize(
    ("shape", "spelling", "data"),
    [
        ((10**12,), "f4", b"1234"),
        ((-1,), "f4", b"1234"),
        ((2, 3), "f4", b"1234" * 5),
        (([0] * 4, 10**9), "f4", b"1234"),
        ((1,), "V4", b"1234"),
        ((1,), "M8[D]", b"12345678"),
        ((1,), "i4,i4", b"12345678"),
        ((1,), "U1", b"1234"),
        ((2,), "O", [1]),
        ((1,), "f4", "text"),
    ],
)
def test_states_that_no_array_has(tmp_path, shape, spelling, data):
    path = write_pickle(tmp_path / "x.npy", array_pickle(shape, spelling, data))
    with pytest.raises(UserError, match=r"x\.npy is (refused|damaged)"):
        read_dictionary(path)


def test_a_tensor_longer_than_its_storage(tmp_path):
    tensor = torch.zeros(4)
    rebuild, arguments = tensor.__reduce_ex__(2)[:2]
    broken = Calls(rebuild, arguments[0], 0, (1000, 1000), (1000, 1), *arguments[4:])
    path = write_pickle(tmp_path / "x.npy", pickle.dumps({"keys": broken}, 2))
    with pytest.raises(UserError, match="has 4 numbers"):
        read_dictionary(path)


@pytest.mark.parametrize(
    ("value", "says"),
    [([1, 2], "holds a list"), ({"a": {"b": 1}}, "dictionaries of its own"), (3, "holds a int")],
)
def test_other_things_than_a_dictionary(tmp_path, value, says):
    with pytest.raises(UserError, match=says):
        read_dictionary(write_pickle(tmp_path / "x.npy", pickle.dumps(value)))


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(data=st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "x.npy"
    np.save(path, {1: np.ones((2, 3), np.float32), 4: np.zeros((1, 2))})
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with contextlib.suppress(UserError):
        assert isinstance(read_dictionary(path), dict)
