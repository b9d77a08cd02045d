"""The Lightning callback under Lightning itself."""

import importlib
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from dist_oaa import AttentionAccumulator, OnlineCAM, OwnershipBatchSampler, UserError
from processes import REPOSITORY, environment

IDS = [f"photo-{n}" for n in range(10)]
LABELS = torch.tensor([[1, n % 2] for n in range(10)])


@pytest.fixture
def lightning():
    """(lightning.pytorch, the callback's module)."""
    pl = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed (make env)")
    return pl, importlib.import_module("dist_oaa.plugin.lightning")


class Photos(torch.utils.data.Dataset):
    image_ids = IDS

    def __len__(self):
        return len(IDS)

    def __getitem__(self, n):
        generator = torch.Generator().manual_seed(n)
        return torch.rand(3, 16, 16, generator=generator), LABELS[n].float(), IDS[n]


def fit(lightning, folder, epochs, ckpt_path=None, fail_in=None, returned=None, **options):
    pl, module = lightning
    options = {"map_size": 4, "gate": "none", "shards": 3} | options

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.network = OnlineCAM(
                torch.nn.Sequential(
                    torch.nn.Conv2d(3, 8, 4, 4),
                    torch.nn.ReLU(),
                    torch.nn.AdaptiveAvgPool2d(1),
                    torch.nn.Flatten(),
                    torch.nn.Linear(8, 2),
                )
            )

        def training_step(self, batch, batch_idx):
            images, labels, ids = batch
            logits, cam = self.network(images)
            if fail_in == trainer.current_epoch:
                raise RuntimeError("a cable was pulled")
            loss = binary_cross_entropy_with_logits(logits, labels)
            return returned or {"loss": loss, "logits": logits, "cam": cam, "ids": ids}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = module.AccumulateAttention(folder / "store", IDS, LABELS, **options)
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        use_distributed_sampler=False,
    )
    loader = DataLoader(Photos(), batch_sampler=OwnershipBatchSampler(Photos(), 4, shards=3))
    trainer.fit(Classifier(), loader, ckpt_path=ckpt_path)
    assert callback.accumulator is None, "the store was not given back"
    return trainer


def maps(folder):
    with AttentionAccumulator.open(folder / "store", device="cpu") as accumulator:
        return {name: accumulator.maps(name) for name in IDS}


def assert_equal(one, other):
    for name, pairs in one.items():
        assert all(torch.equal(m, other[name][c]) for c, m in pairs.items())


def test_it_accumulates_from_the_start_epoch_on(lightning, tmp_path):
    fit(lightning, tmp_path / "one", 1)
    assert all(m.sum() == 0 for pairs in maps(tmp_path / "one").values() for m in pairs.values())
    fit(lightning, tmp_path / "two", 2)
    assert any(m.max() == 1 for pairs in maps(tmp_path / "two").values() for m in pairs.values())


def test_the_last_epoch_falls_back(lightning, tmp_path):
    """No probability is above 1, so that nothing passes the gate."""
    never = {"gate": "prob", "tau": 1.0}
    fit(lightning, tmp_path / "with", 2, **never)
    fit(lightning, tmp_path / "without", 2, fallback=False, **never)
    assert any(m.sum() for pairs in maps(tmp_path / "with").values() for m in pairs.values())
    assert not any(m.sum() for pairs in maps(tmp_path / "without").values() for m in pairs.values())


def test_a_checkpoint_goes_on_with_its_own_maps(lightning, tmp_path):
    """Average fusion would show an epoch that was counted twice, or lost."""
    fit(lightning, tmp_path / "whole", 4, fusion="average")
    parts = tmp_path / "parts"
    fit(lightning, parts, 2, fusion="average")
    with pytest.raises(RuntimeError, match="cable"):
        fit(lightning, parts, 4, ckpt_path=newest(parts), fail_in=3, fusion="average")
    assert newest(parts).name.startswith("epoch=2")
    fit(lightning, parts, 4, ckpt_path=newest(parts), fusion="average")
    assert_equal(maps(parts), maps(tmp_path / "whole"))


def newest(folder):
    """The checkpoint that Lightning wrote last."""
    return max(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)


def test_without_what_it_needs(lightning, tmp_path):
    loss = torch.zeros((), requires_grad=True)
    with pytest.raises(UserError, match="training_step of Classifier returns no cam or logits or"):
        fit(lightning, tmp_path, 2, returned={"loss": loss})


@pytest.mark.slow
def test_the_example(lightning, demo_data, tmp_path):
    code = subprocess.run(
        [
            *(sys.executable, "examples/lightning_callback.py", "--data", str(demo_data)),
            *("--out", str(tmp_path), "--epochs", "2", "--side", "32"),
        ],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert code.returncode == 0, code.stderr
    assert " pairs have a map in " in code.stdout


def test_without_lightning(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "dist_oaa.plugin.lightning", raising=False)
    with pytest.raises(UserError, match=r"pip install 'dist_oaa\[lightning\]'"):
        importlib.import_module("dist_oaa.plugin.lightning")
