"""Missing, broken and old packages."""

from importlib import metadata

import pytest

from dist_oaa.stages.examining import versions
from dist_oaa.stages.examining.asking import Answer


def state(findings) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_what_loads_and_what_does_not():
    missing = "ModuleNotFoundError: No module named 'x'"
    found = versions.loaded(
        {
            "torch": Answer("2.14.1"),
            "triton": Answer(error=missing),
            "lmdb": Answer(error=missing),
            "opencv": Answer(error="ImportError: libGL.so.1: cannot open shared object file"),
            "isal": Answer(""),
        }
    )
    assert state(found) == {
        "torch": "ok", "triton": "ok", "lmdb": "problem", "opencv": "problem", "isal": "ok",
    }  # fmt: skip
    assert "libGL" in found[3].found
    assert found[3].advice


def test_a_broken_triton_is_a_problem():
    (found,) = versions.loaded({"triton": Answer(error="killed by SIGILL")})
    assert found.state == "problem"


def test_optional_packages_may_be_missing(monkeypatch):
    monkeypatch.setattr(versions, "installed", lambda name: "")
    found = versions.read()
    assert set(state(found).values()) == {"ok"}
    assert [f.found for f in found if f.name == "ray"] == ["not installed; only oaa tune needs it"]


@pytest.mark.parametrize(
    ("versions_", "sentence"),
    [
        ({"torch": "2.14.1+cu130", "lmdb": "1.6"}, ""),
        ({"torch": "2.15.0.dev1", "lmdb": "3.0"}, ""),
        ({"torch": "2.5.1", "lmdb": "3.0"}, "torch is 2.5.1, expected >=2.14"),
        ({"torch": "2.14.0"}, "lmdb is not installed"),
    ],
)
def test_requirements(monkeypatch, versions_, sentence):
    wanted = ["torch>=2.14", "lmdb>=1.6", 'ray[tune]>=2.50; extra == "sweep"']
    monkeypatch.setattr(versions.metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(versions, "installed", lambda name: versions_.get(name, ""))
    found = versions.requirements()
    assert found.state == ("problem" if sentence else "ok")
    assert sentence in found.found
    assert "ray" not in found.found


def test_run_from_its_sources(monkeypatch):
    def none(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(versions.metadata, "requires", none)
    assert versions.requirements().state == "ok"


def test_this_program():
    assert [f.name for f in versions.this_program()] == ["dist_oaa", "Python"]
