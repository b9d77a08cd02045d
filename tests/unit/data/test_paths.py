"""No name out of a data file leads out of the root."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.data.paths import inside, relative_name


@pytest.mark.parametrize("name", ["a.jpg", "b/c.jpg", "./a.jpg", "b//c.jpg", "..a/b..", "ü n.png"])
def test_names_inside(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/../b", "a/../../b", "/etc/passwd", "a\0b"]
)
def test_names_refused(tmp_path, name):
    with pytest.raises(UserError, match="expected"):
        inside(tmp_path, name)


def test_symbolic_links(tmp_path):
    root, other = tmp_path / "root", tmp_path / "root-2"  # the second name starts with the first
    root.mkdir()
    other.mkdir()
    (other / "x.jpg").write_bytes(b"x")
    (root / "file.jpg").symlink_to(other / "x.jpg")
    (root / "folder").symlink_to(other)
    (root / "loop").symlink_to("loop")
    for name in ("file.jpg", "folder/x.jpg", "folder/does-not-exist.jpg"):
        with pytest.raises(UserError, match="leads out of the data-set root"):
            inside(root, name)
    (root / "real.jpg").write_bytes(b"x")
    (root / "alias.jpg").symlink_to("real.jpg")
    assert inside(root, "alias.jpg") == root / "alias.jpg"
    inside(root, "loop")  # does not hang; the file simply does not exist


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    assert inside(tmp_path / "root", "a") == tmp_path / "root" / "a"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="ab./\\ ", max_size=12))
def test_accepted_names_stay_below_the_root(tmp_path, text):
    try:
        path = inside(tmp_path, text)
    except UserError:
        return
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert path.resolve() != tmp_path.resolve()
    assert relative_name(relative_name(text)) == relative_name(text)
