"""The same with Lightning: the callback does the accumulation (pip install 'dist_oaa[lightning]').

oaa data demo demo-data
python examples/lightning_callback.py --data demo-data --out lightning-run
"""

import argparse
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from dist_oaa import AttentionAccumulator, OnlineCAM, OwnershipBatchSampler
from dist_oaa.plugin.lightning import AccumulateAttention
from plain_pytorch import Scenes, make_model


class Classifier(LightningModule):
    """Gives the callback what it accumulates."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.network = OnlineCAM(make_model(classes))

    def training_step(self, batch: list, batch_idx: int) -> dict[str, object]:
        images, labels, ids, geometry = batch
        logits, cam = self.network(images)
        loss = binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits, "cam": cam, "ids": ids, "geometry": geometry}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder that `oaa data demo` has written")
    parser.add_argument("--out", required=True, help="the folder of checkpoints and maps")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--side", type=int, default=128, help="of an input, in pixels")
    args = parser.parse_args()

    scenes = Scenes(Path(args.data), args.side)
    store = Path(args.out) / "store"
    trainer = Trainer(
        max_epochs=args.epochs,
        default_root_dir=args.out,
        callbacks=[AccumulateAttention(store, scenes.image_ids, scenes.labels_NC)],
        # Ours already gives each process the images whose maps it keeps.
        use_distributed_sampler=False,
    )
    loader = DataLoader(scenes, batch_sampler=OwnershipBatchSampler(scenes, batch_size=8))
    trainer.fit(Classifier(len(scenes.class_names)), loader)

    # All processes together again: each sees the images whose maps it keeps.
    with AttentionAccumulator.open(store, device="cpu") as accumulator:
        maps = [m for name in accumulator.image_ids for m in accumulator.maps(name).values()]
        covered = sum(bool(m.any()) for m in maps)
        print(f"{covered} of {len(maps)} pairs have a map in {store}")


if __name__ == "__main__":
    main()
