"""One folder per class."""

import pytest

from data_trees import write_image, write_text
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.sources import open_image_set


def open_folder(root, **settings):
    return open_image_set(DataConfig(root=str(root), **settings))


@pytest.fixture
def root(tmp_path):
    for name in ("dog/b.JPG", "dog/a.v2.png", "cat/deep/er/c.jpg", "cat/.hidden.jpg"):
        write_image(tmp_path / "root" / name)
    write_image(tmp_path / "root/.cache/x.jpg")
    write_image(tmp_path / "root/cat/.cache/x.jpg")
    write_text(tmp_path / "root/dog/notes.txt", "x")
    write_text(tmp_path / "root/README.md", "x")
    return tmp_path / "root"


def test_classes_ids_and_labels(root):
    image_set = open_folder(root)
    assert image_set.class_names == ("cat", "dog")
    assert image_set.label_source == "folder names"
    assert [(s.id, s.classes, s.mask) for s in image_set.samples] == [
        ("cat/deep/er/c", (0,), None),
        ("dog/a.v2", (1,), None),
        ("dog/b", (1,), None),
    ]
    assert image_set.samples[2].path == root / "dog/b.JPG"


def test_given_classes(root):
    assert open_folder(root, classes=["dog", "yak", "cat"]).labels_NC.tolist() == [
        [0, 0, 1],
        [1, 0, 0],
        [1, 0, 0],
    ]
    with pytest.raises(UserError, match=r"root/dog: .*unknown class 'dog'; the nearest .* 'dogs'"):
        open_folder(root, classes=["dogs", "cat"])


def test_colliding_ids(root):
    write_image(root / "dog/b.png")
    with pytest.raises(UserError, match=r"dog/b\.JPG and .*dog/b\.png share the id 'dog/b'"):
        open_folder(root)


def test_a_picture_in_two_class_folders(root):
    (root / "cat/b.JPG").write_bytes((root / "dog/b.JPG").read_bytes())
    with pytest.raises(UserError, match=r"cat/b\.JPG and .*dog/b\.JPG are the same picture in two"):
        open_folder(root)
    write_image(root / "cat/b.JPG", seed=1)  # another of the same name
    assert len(open_folder(root).samples) == 4


def test_images_without_a_folder_and_folders_without_images(root, tmp_path):
    (root / "cow").mkdir()
    with pytest.raises(UserError, match=r"class folder .*cow holds no image"):
        open_folder(root)
    write_image(root / "cow/a.jpg")
    write_image(root / "stray.jpg")
    with pytest.raises(UserError, match=r"stray\.jpg lies in no class folder"):
        open_folder(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no folder, expected one folder"):
        open_folder(tmp_path / "empty")


@pytest.mark.parametrize("link", ["cow", "dog/link.jpg", "dog/sub"])
def test_symbolic_links_out_of_the_root(root, tmp_path, link):
    outside = write_image(tmp_path / "outside/x.jpg")
    (root / link).symlink_to(outside if link.endswith(".jpg") else outside.parent)
    with pytest.raises(UserError, match="link"):
        open_folder(root)


def test_symbolic_links_inside_the_root(root):
    (root / "dog").rename(root / ".kept")
    (root / "hound").symlink_to(".kept")
    assert open_folder(root).class_names == ("cat", "hound")
    (root / "hound/again").symlink_to("..")  # a circle
    with pytest.raises(UserError, match="symbolic link to a folder"):
        open_folder(root)
