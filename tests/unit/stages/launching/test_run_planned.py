"""What a run is known by, and the command line that starts it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dotted_keys
from dist_oaa.stages.launching import planned
from dist_oaa.stages.launching.planned import (
    Asked,
    PlannedRun,
    Source,
    as_text,
    command,
    defaults,
    identify,
    of_result,
    plan_run,
)


def run_called(stage: str, out: Path, **settings) -> PlannedRun:
    asked = Asked("x", stage, 0, None, settings, {}, "a.yaml")
    return plan_run(asked, lambda identity: out / identity)


def reads(identity: str, folder: str = "") -> Source:
    return Source(PlannedRun("x", "classify", 0, identity, Path("x"), (), {}), folder)


@dataclass(kw_only=True)
class Inner:
    a: int = 1
    b: list[int] = field(default_factory=lambda: [1, 2])


@dataclass(kw_only=True)
class Before:
    run_dir: str = "x"
    inner: Inner = field(default_factory=Inner)


@dataclass(kw_only=True)
class After(Before):
    added: str = "none"


def test_a_setting_that_a_later_version_adds_keeps_the_identity():
    old, new = defaults(Before), defaults(After)
    assert old == {"run_dir": "x", "inner.a": 1, "inner.b": [1, 2]}
    assert set(defaults(ClassifyConfig)) == set(dotted_keys(ClassifyConfig))
    one = identify("s", of_result(old | {"inner.a": 5}), old, {})
    assert one == identify("s", of_result(new | {"inner.a": 5}), new, {})
    assert one == identify("s", of_result(old | {"inner.a": 5, "run_dir": "y"}), old, {})
    for changed in (
        identify("s", of_result(old | {"inner.a": 6}), old, {}),
        identify("s", of_result(new | {"inner.a": 5, "added": "some"}), new, {}),
        identify("t", of_result(old | {"inner.a": 5}), old, {}),
        identify("s", of_result(old | {"inner.a": 5}), old, {"maps": reads("a", "store")}),
    ):
        assert changed != one


def test_how_a_run_is_carried_out_does_not_matter():
    kept = {"seed": 1, "data.root": "/d", "evaluate.images": 3}
    aside = {"run_dir": "r", "resume": True, "runtime.threads": 2, "data.workers": 4}
    aside |= {"checkpoint": "r", "checkpoint.keep": 2, "processes": 3, "store.local_dir": "/l"}
    assert of_result(kept | aside) == kept


def test_what_a_run_reads_is_part_of_its_identity():
    def identity(**sources: Source) -> str:
        return identify("s", {}, {}, sources)

    different = [
        identity(),
        identity(maps=reads("a")),
        identity(maps=reads("b")),
        identity(maps=reads("a", "store-average")),
        identity(init=reads("a")),
        identity(maps=reads("a"), init=reads("a")),
    ]
    assert len(set(different)) == len(different)
    assert identity(maps=reads("a")) == different[1]


def test_where_the_source_lies_does_not_matter(tmp_path):
    def with_source(folder: Path) -> PlannedRun:
        source = Source(replace(run_called("classify", tmp_path), folder=folder), "store")
        asked = Asked("y", "integral", 0, None, {"seed": 1}, {"maps": source}, "a.yaml")
        return plan_run(asked, lambda identity: tmp_path / identity)

    here, there = with_source(tmp_path / "here"), with_source(tmp_path / "there")
    assert here.identity == there.identity
    assert here.sources == (run_called("classify", tmp_path).identity,)
    assert here.arguments[:3] == ("integral", "--maps", str(tmp_path / "here" / "store"))
    assert "maps" not in here.settings


def test_a_wrong_setting_names_where_it_was_written(tmp_path):
    with pytest.raises(UserError, match=r"key optim.lrr in a.yaml; the nearest .* is optim.lr"):
        run_called("classify", tmp_path, **{"optim.lrr": 1})


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (0.5, "0.5"), ([1, "a"], '[1, "a"]'), ("a b", "a b")]
)
def test_values_as_a_command_line_writes_them(value, text):
    assert as_text(value) == text


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(planned.sys, "executable", "py")
    run = run_called("classify", tmp_path)
    assert command(run, 1, False) == ["py", "-m", "dist_oaa", *run.arguments]
    torchrun = ["py", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    expected = [*torchrun, "-m", "dist_oaa", *run.arguments, "--resume", "true"]
    assert command(run, 3, True) == expected
