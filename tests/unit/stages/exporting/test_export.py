"""`oaa export`: the deployed network, the files, and the comparison that guards them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_oaa.config.errors import RunError, UserError
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.models.segmentation.scoring import Scorer
from dist_oaa.stages import export as stage
from dist_oaa.stages.exporting import formats
from dist_oaa.stages.exporting.deployed import DeployedSegmenter
from dist_oaa.stages.exporting.parity import compare, difference, sizes_to_try
from segmenters import NAMES, network_settings, segmenter_run, varied


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return segmenter_run(tmp_path_factory.mktemp("run"), supervision=("supervision: none",))


def command(*argv: object) -> int:
    return stage.main("oaa export", [str(argument) for argument in argv])


@pytest.mark.parametrize("shape", [(40, 56), (33, 41), (5, 3)])
def test_the_deployed_network_is_what_predict_computes(shape):
    """Against the scorer, which pads, crops and normalises on its own."""
    network = varied(build_segmenter(network_settings(), 3, 0)[0]).eval()
    image_HW3 = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image_13HW = torch.from_numpy(image_HW3).permute(2, 0, 1)[None]
    expected_LHW = Scorer(network).probabilities(image_HW3)
    with torch.no_grad():
        found = {
            output: DeployedSegmenter(network, output)(image_13HW)[0]
            for output in ("probabilities", "logits", "labels")
        }
    torch.testing.assert_close(found["probabilities"], expected_LHW, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["logits"].softmax(0), expected_LHW, rtol=1e-5, atol=1e-6)
    assert found["labels"].dtype == torch.uint8
    assert (found["labels"] == expected_LHW.argmax(0)).all()


@pytest.mark.slow
def test_a_file_of_fixed_size_runs_without_this_project(tmp_path, run_dir, capsys):
    out = tmp_path / "deep/net.pt2"
    assert command(run_dir, "--format", "torch_export", "--size", 48, 65, "--out", out) == 0
    assert "torch_export against the network" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["net.pt2"]
    script = (
        "import sys, json, torch\n"
        "extra = {'metadata.json': ''}\n"
        "net = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "image = torch.arange(48 * 65 * 3).remainder(251).to(torch.uint8)\n"
        "found = net(image.view(1, 3, 48, 65))\n"
        "assert not any(m.startswith('dist_oaa') for m in sys.modules)\n"
        "print(json.dumps([extra['metadata.json'], found.flatten().tolist()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(out)], cwd=tmp_path, capture_output=True, check=True
    )
    text, values = json.loads(done.stdout)
    metadata = json.loads(text)
    assert json.loads(metadata["classes"]) == ["background", *NAMES]
    assert metadata["output"] == "probabilities"
    image_1D = np.arange(48 * 65 * 3) % 251
    image_HW3 = image_1D.reshape(3, 48, 65).transpose(1, 2, 0).astype(np.uint8)
    network = Scorer(stage.load_segmenter(run_dir).network)
    expected_LHW = network.probabilities(image_HW3).numpy()
    np.testing.assert_allclose(np.reshape(values, expected_LHW.shape), expected_LHW, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": "deeplab_v2", "multi_scale_inputs": [0.5, 1.0]},
        {"architecture": "smp:Unet", "backbone": "resnet18"},
    ],
    ids=["large_fov", "deeplab_v2_msc", "unet"],
)
def test_onnx_files_of_any_size(tmp_path, changes):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    run_dir = segmenter_run(tmp_path / "run", **changes)
    out = tmp_path / "net.onnx"
    assert command(run_dir, "--out", out) == 0
    model = onnx.load(out)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["classes"]) == ["background", *NAMES]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    network = stage.load_segmenter(run_dir).network
    image_HW3 = np.random.default_rng(1).integers(0, 256, (71, 99, 3), dtype=np.uint8)
    image_13HW = torch.from_numpy(image_HW3).permute(2, 0, 1)[None].contiguous()
    found_LHW = formats.load_onnx(out)(image_13HW)[0]
    torch.testing.assert_close(
        found_LHW, Scorer(network).probabilities(image_HW3), rtol=0, atol=1e-4
    )


def wrong(offset: float) -> formats.Format:
    """A format whose file answers with a little too much."""

    def write(deployed, size, metadata, path):
        path.write_bytes(b"x")
        write.network = deployed

    return formats.Format(write, lambda path: lambda image: write.network(image) + offset)


@pytest.mark.parametrize(("offset", "passes"), [(1e-4, True), (1e-2, False), (float("nan"), False)])
def test_a_file_that_computes_something_else_is_not_left(
    tmp_path, run_dir, monkeypatch, offset, passes
):
    monkeypatch.setitem(stage.FORMATS, "onnx", wrong(offset))
    arguments = (run_dir, "--size", "48", "64", "--out", tmp_path / "net.onnx")
    if passes:
        assert command(*arguments) == 0
        assert (tmp_path / "net.onnx").read_bytes() == b"x"
        return
    with pytest.raises(RunError, match=r"differs from the original by .* of 48 x 64 pixels"):
        command(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_differences():
    ours = torch.tensor([[4.0, -8.0]])
    assert difference(ours, ours) == 0
    assert difference(ours, ours + 1) == 1 / 8
    assert difference(ours / 80, ours / 80 + 0.25) == pytest.approx(0.25)
    assert difference(ours, ours.double()) == float("inf")
    assert difference(ours, ours[0]) == float("inf")
    labels = torch.tensor([1, 2, 3, 3], dtype=torch.uint8)
    assert difference(labels, torch.tensor([1, 2, 3, 0], dtype=torch.uint8)) == 0.25


def test_what_is_tried():
    found = compare(torch.nn.Identity(), lambda image: image, sizes_to_try(None, 32))
    assert {parity.difference for parity in found} == {0}
    assert len({(parity.height, parity.width) for parity in found}) >= 4
    assert min(min(parity.height, parity.width) for parity in found) == 33
    assert any(parity.height % 32 and parity.width % 2 for parity in found)
    assert sizes_to_try((50, 60), 8) == [(1, 50, 60), (3, 50, 60)]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "no checkpoint is given"),
        (["RUN", "other"], "takes one CHECKPOINT, so what is 'other'"),
        (["RUN"], "out is '', expected a file name ending in .onnx"),
        (["RUN", "--out", "net.onnx", "--format", "torch_export"], "ending in .pt2"),
        (["RUN", "--out", "there.onnx"], "there.onnx exists, and nothing is ever overwritten"),
        (["RUN", "--out", "a.onnx", "--size", "48"], "expected dynamic, or height and width"),
        (["nowhere", "--out", "a.onnx"], "nowhere is no run directory"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, run_dir, argv, sentence):
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").write_bytes(b"mine")
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        command(*[str(run_dir) if argument == "RUN" else argument for argument in argv])
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


def test_a_missing_package_is_named(tmp_path, run_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript: pip install 'dist_oaa\[export\]'"):
        command(run_dir, "--out", tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
