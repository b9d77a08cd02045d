"""Which run maps come from, and which networks stand behind it."""

from pathlib import Path

import yaml

from dist_oaa.stages.labelling.origin import origin_of

LITE = {"backbone": "lite0", "weights": "package:lite0"}


def run(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_a_run_its_store_and_its_maps(tmp_path):
    classify = run(tmp_path / "classify", model=LITE, data={"root": "photos", "limit": 3})
    (classify / "store").mkdir()
    for path in (classify, classify / "store", str(classify)):
        origin = origin_of(Path(path))
        assert origin.run_dir == classify
        assert origin.trunks == ["lite0, trunk weights package:lite0"]
        assert origin.data.root == "photos"
        assert origin.data.limit == 3


def test_runs_are_followed_back(tmp_path):
    classify = run(tmp_path / "a", model=LITE, data={"root": "x"})
    vgg = {"backbone": "vgg", "weights": "none"}
    integral = run(tmp_path / "b", model=vgg, maps=str(classify), data={"root": "x"})
    attend = run(tmp_path / "c", checkpoint=str(integral), data={"root": "y"})
    origin = origin_of(attend)
    assert origin.trunks == ["vgg, trunk weights none", "lite0, trunk weights package:lite0"]
    assert origin.data.root == "y"


def test_what_is_not_known_is_not_known(tmp_path):
    (tmp_path / "maps").mkdir()
    assert origin_of(tmp_path / "maps").trunks == []
    assert origin_of(tmp_path / "maps").data is None
    gone = run(tmp_path / "gone", checkpoint=str(tmp_path / "nowhere"))
    assert origin_of(gone).trunks == []
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.yaml").write_text("a: [")
    assert origin_of(tmp_path / "bad").run_dir is None


def test_runs_in_a_circle_end(tmp_path):
    first = run(tmp_path / "a", model=LITE, maps=str(tmp_path / "b"))
    run(tmp_path / "b", model=LITE, maps=str(first))
    assert origin_of(first).trunks == ["lite0, trunk weights package:lite0"]
