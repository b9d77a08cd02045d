"""Drawings: properties that a person would notice if they broke."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageFont

from dist_oaa.evaluation import pictures
from dist_oaa.evaluation.pictures import grid, mask_colours, overlay, save_png


def photograph(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_overlay_grows_more_opaque_and_brighter_with_the_value():
    image = photograph()
    steps = [overlay(image, np.full((4, 4), v, np.float32)) for v in np.linspace(0, 1, 9)]
    for step in steps:
        assert step.shape == image.shape
        assert step.dtype == np.uint8
    # The photograph fades (less contrast), but never vanishes.
    spread = [step.std(axis=(0, 1)).mean() for step in steps]
    assert all(a > b for a, b in pairwise(spread))
    assert spread[-1] > 5
    # A dark photograph brightens with every step of the map.
    dark = np.zeros((8, 8, 3), np.uint8)
    light = [overlay(dark, np.full((4, 4), v, np.float32)).mean() for v in np.linspace(0, 1, 9)]
    assert light[0] == 0
    assert all(a < b for a, b in pairwise(light))


def test_overlay_colours_where_the_map_is():
    grey = np.full((40, 80, 3), 128, np.uint8)
    map_SS = np.zeros((4, 4), np.float32)
    map_SS[:, 0] = 1
    drawn = overlay(grey, map_SS).astype(int)
    # Warm (red over blue) at the left end, the photograph at the right end.
    assert (drawn[:, 0, 0] - drawn[:, 0, 2] > 50).all()
    np.testing.assert_array_equal(drawn[:, 60:], grey[:, 60:])


def test_overlay_clips_values_outside_the_range():
    image = photograph(5, 5)
    for value, limit in ((-3, 0), (7, 1)):
        np.testing.assert_array_equal(
            overlay(image, np.full((1, 1), value, np.float32)),
            overlay(image, np.full((1, 1), limit, np.float32)),
        )


def test_mask_colours_are_those_of_voc():
    # From the VOC development kit's colour table.
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
    }
    drawn = mask_colours(np.array([[*known, 255]], np.uint8))
    np.testing.assert_array_equal(drawn[0, :-1], list(known.values()))
    assert drawn.dtype == np.uint8
    assert drawn[0, -1].min() > 220
    colours = mask_colours(np.arange(256, dtype=np.uint8)[None])
    assert len(np.unique(colours[0], axis=0)) == 256


def test_grid_places_every_cell_and_keeps_its_aspect():
    red, blue = np.zeros((50, 100, 3), np.uint8), np.zeros((120, 60, 3), np.uint8)
    red[..., 0] = 255
    blue[..., 2] = 255
    page = grid([[red, None], [blue]], [], [], cell=64)
    for colour, size in (((255, 0, 0), (32, 64)), ((0, 0, 255), (64, 32))):
        rows, columns = np.nonzero((page == colour).all(-1))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == size
        assert len(rows) == size[0] * size[1]
    # Rows: as high as their highest picture, with gaps around.
    assert page.shape == (8 + 32 + 8 + 64 + 8, 8 + 2 * (64 + 8), 3)


TITLES = ["image", "CAM (final classifier)", "W" * 60, "gjpqy " * 12, "two\nlines"]


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("width", [32, 48, 160])
def test_wrapped_titles_keep_every_letter_and_fit(title, width):
    font = ImageFont.load_default(size=pictures.FONT_SIZE)
    lines = pictures._wrap(title, font, width)
    assert "".join(lines).replace(" ", "") == "".join(title.split())
    assert max(map(font.getlength, lines)) <= width


@pytest.mark.parametrize("title", TITLES)
def test_grid_never_cuts_titles(title):
    def darkness(*titles: list[str], cell: int) -> int:
        picture = np.full((cell, cell, 3), pictures.PAGE, np.uint8)
        page = grid([[picture, picture]], *titles, cell=cell)
        for edge in (page[0], page[-1], page[:, 0], page[:, -1]):
            assert (edge == pictures.PAGE).all()
        return int((np.array(pictures.PAGE) - page.astype(int)).sum())

    # A title leaves the same ink where it wraps as where it has all the room.
    roomy = darkness([title], [], cell=900)
    assert roomy > 0
    assert darkness([title], [], cell=48) == pytest.approx(roomy, rel=0.1)
    assert darkness([], [title, title], cell=48) == pytest.approx(2 * roomy, rel=0.1)


def test_grid_refuses_what_does_not_fit():
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="shows nothing"):
        grid([], [], [])
    with pytest.raises(ValueError, match="shows nothing"):
        grid([[picture]], [], [], cell=8)
    with pytest.raises(ValueError, match="titles"):
        grid([[picture]], ["a", "b"], [])


def test_save_png_round_trip_and_replacement(tmp_path):
    path = tmp_path / "new" / "picture.png"
    for image in (photograph(7, 5), photograph(3, 9)):
        save_png(path, image)
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_a_failing_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    save_png(path, photograph())
    before = path.read_bytes()

    def full_disk(self, target, **_):
        target.write_bytes(b"half a pict")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_png(path, photograph(5, 5))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
