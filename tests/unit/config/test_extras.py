"""Extras: a package that only some need is asked for by one sentence, before anything is run."""

import runpy
import sys
from types import ModuleType

import pytest
import setuptools
import torch

from dist_oaa.cli import main
from dist_oaa.config.errors import UserError
from dist_oaa.config.evaluate import EvaluationConfig
from dist_oaa.config.extras import EXTRAS, absent, check_extras, need
from dist_oaa.config.predict import PredictConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages import evaluate, pipeline, predict
from dist_oaa.stages.launching.maker import Runner
from dist_oaa.stages.launching.planned import PlannedRun
from processes import REPOSITORY
from small_table import log_metrics

CRF = r"which needs pydensecrf2: pip install 'dist_oaa\[crf\]'$"


@pytest.fixture
def without(monkeypatch):
    """Makes packages look as if they were not installed."""

    def block(*modules: str) -> None:
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)

    return block


@pytest.fixture
def alone() -> tuple[World, StopFlag]:
    """A world of one, and a flag that nobody raises."""
    return World(0, 1, 0, torch.device("cpu")), StopFlag()


def setup_arguments(monkeypatch) -> dict:
    found: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    runpy.run_path(str(REPOSITORY / "setup.py"))
    return found


def test_the_table_and_setup_agree(monkeypatch):
    extras = setup_arguments(monkeypatch)["extras_require"]
    assert {"sweep", "crf", "report", "smp", "wsol", "lightning", "export", "dev"} <= set(extras)
    for package, extra in EXTRAS.values():
        names = [line.split("[")[0].split(">=")[0] for line in extras[extra]]
        assert package in names, f"{package} in {extra}"


def test_no_extra_is_also_required(monkeypatch):
    arguments = setup_arguments(monkeypatch)
    required = {line.split("[")[0].split(">=")[0] for line in arguments["install_requires"]}
    assert not required & {package for package, _ in EXTRAS.values()}
    # Whoever wants a GPU, or none, chooses the build of torch: nothing may pin it.
    assert not [line for line in arguments["install_requires"] if "==" in line or "<" in line]


def test_a_package_that_is_there_is_given():
    assert need("jinja2", "the page").Template("{{ x }}").render(x=3) == "3"
    assert absent("the page", "jinja2") == ""


@pytest.mark.parametrize("module", ["pydensecrf", "pydensecrf.densecrf"])
def test_a_package_that_is_missing(without, module):
    without("pydensecrf", "pydensecrf.densecrf")
    with pytest.raises(UserError, match="^labels.refine is crf, " + CRF):
        need(module, "labels.refine is crf, which")


def test_a_package_that_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "optuna.py").write_text("raise ImportError('libsqlite3.so.0:\\n no such file')\n")
    (tmp_path / "rembg.py").write_text("import a_dependency_of_rembg\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("optuna", "rembg"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=r"^x needs optuna, which cannot be loaded: libsqlite3"):
        need("optuna", "x")
    with pytest.raises(UserError, match=r"cannot be loaded: No module named 'a_dependency_of_"):
        need("rembg", "x")


@pytest.mark.parametrize(
    ("settings", "module", "sentence"),
    [
        ({"labels.refine": ["pamr", "crf"]}, "pydensecrf", "labels.refine is crf, " + CRF),
        ({"crf": True}, "pydensecrf", "crf is true, " + CRF),
        ({"labels.saliency": "rembg"}, "rembg", r"labels.saliency is rembg, which needs rembg"),
        ({"method": "rembg"}, "rembg", r"method is rembg, .* pip install 'dist_oaa\[rembg\]'"),
        (
            {"network.architecture": "smp:Unet"},
            "segmentation_models_pytorch",
            r"smp:Unet, which needs segmentation-models-pytorch: pip install 'dist_oaa\[smp\]'",
        ),
    ],
)
def test_settings_that_ask_for_an_extra(without, settings, module, sentence):
    without(module)
    with pytest.raises(UserError, match=sentence):
        check_extras({"seed": 1} | settings)


def test_settings_that_ask_for_none(without):
    without(*EXTRAS)
    check_extras({})
    check_extras({"labels.refine": ["pamr", "random_walk"], "crf": False, "method": "spectral"})
    check_extras({"network.architecture": "deeplab_v2", "labels.saliency": "dir"})


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def test_labels_say_so_before_they_look_at_a_map(without, capsys, demo_data, tmp_path):
    without("pydensecrf")
    argv = ["--maps", str(tmp_path), "--data.root", str(demo_data), "--labels.refine", "[crf]"]
    error = refused(capsys, "pseudo-label", "--run_dir", str(tmp_path / "run"), *argv)
    assert error.endswith(
        "labels.refine is crf, which needs pydensecrf2: pip install 'dist_oaa[crf]'\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_evaluate_and_predict_say_so_at_once(without, alone, monkeypatch, tmp_path):
    without("pydensecrf")
    monkeypatch.setattr(predict, "is_classifier", lambda _: False)
    with pytest.raises(UserError, match="^crf is true, " + CRF):
        evaluate.evaluate(EvaluationConfig(crf=True, run_dir=str(tmp_path)), *alone)
    config = PredictConfig(checkpoint="x", images=["y"], out=str(tmp_path / "out"), crf=True)
    with pytest.raises(UserError, match="^crf is true, " + CRF):
        predict.predict(config, *alone)
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_says_so_before_its_first_stage(without, tmp_path):
    without("pydensecrf")

    def launch(*_):
        raise AssertionError("nothing may be started")

    class Quiet:
        def begin(self, *_): ...

    runs = [
        PlannedRun(name, name, 0, name, tmp_path / name, (), settings)
        for name, settings in (("classify", {}), ("labels", {"labels.refine": ["crf"]}))
    ]
    runner = Runner(None, 1, StopFlag(), Quiet(), launch)
    with pytest.raises(UserError, match=CRF):
        runner.make(runs)


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_the_page(without, capsys, tmp_path, module):
    log_metrics(tmp_path, "classify", {"cam/recall": 0.25}, {"cam/recall": 0.5})
    without(module)
    error = refused(capsys, "report", str(tmp_path))
    assert error.endswith(f"the report page needs {module}: pip install 'dist_oaa[report]'\n")
    assert not (tmp_path / "report.html").exists()


def test_a_pipeline_is_worth_as_much_without_its_page(without, tmp_path):
    said: list[str] = []
    progress = ModuleType("progress")
    progress.say = said.append
    without("matplotlib")
    pipeline.show_page(progress, tmp_path)
    (sentence,) = said
    assert sentence == (
        "the report page needs matplotlib: pip install 'dist_oaa[report]', then oaa report "
        f"{tmp_path}"
    )
