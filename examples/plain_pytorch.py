"""A plain PyTorch loop whose classifier's attention accumulates, on one process or several.

    oaa data demo demo-data
    python examples/plain_pytorch.py --data demo-data --store store
    torchrun --nproc-per-node 2 examples/plain_pytorch.py --data demo-data --store store2

Masks are read at the end alone, to measure.
"""

import argparse
import csv
import json
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torchvision
from PIL import Image
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tv

from dist_oaa import AttentionAccumulator, Geometry, OnlineCAM, OwnershipBatchSampler
from dist_oaa.evaluation.attention import AttentionQuality
from dist_oaa.evaluation.maps import resize_map

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Scenes(Dataset):
    """Images with tags: a random crop and flip of each, and where that lies in the image."""

    def __init__(self, root: Path, side: int) -> None:
        self.root, self.side, self.training = root, side, True
        self.class_names = (root / "classes.txt").read_text().split()
        with open(root / "labels.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        self.image_ids = [row["image_id"] for row in rows]
        self.labels_NC = torch.zeros(len(rows), len(self.class_names))
        for n, row in enumerate(rows):
            for name in row["classes"].split():
                self.labels_NC[n, self.class_names.index(name)] = 1

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor, str, torch.Tensor]:
        path = self.root / "JPEGImages" / f"{self.image_ids[n]}.jpg"
        image = tv.pil_to_tensor(Image.open(path).convert("RGB"))
        height, width = image.shape[-2:]
        view, size = Geometry(height, width), (self.side, self.side)
        if self.training:
            rows, columns = (round(random.uniform(0.75, 1) * pixels) for pixels in (height, width))
            box = (random.randint(0, height - rows), random.randint(0, width - columns))
            image = tv.resized_crop(image, *box, rows, columns, size, antialias=True)
            view = view.resized_crop(*box, rows, columns, size)
            if random.random() < 0.5:
                image, view = tv.hflip(image), view.hflip()
        else:
            image, view = tv.resize(image, size, antialias=True), view.resize(*size)
        image = tv.normalize(tv.to_dtype(image, torch.float32, scale=True), MEAN, STD)
        return image, self.labels_NC[n], self.image_ids[n], view.matrix


def make_model(classes: int) -> torch.nn.Module:
    """A ResNet-18 that keeps the resolution in its last stage: stride 16."""
    model = torchvision.models.resnet18(num_classes=classes)
    model.layer4[0].conv1.stride = model.layer4[0].downsample[0].stride = (1, 1)
    return model


def train(args: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    scenes = Scenes(Path(args.data), args.side)
    model = make_model(len(scenes.class_names))
    wrapped = DistributedDataParallel(model) if dist.is_initialized() else model
    network = OnlineCAM(wrapped)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    batches = OwnershipBatchSampler(scenes, args.batch_size, seed=args.seed)
    loader = DataLoader(scenes, batch_sampler=batches)

    accumulator = AttentionAccumulator.create(
        args.store,
        image_ids=scenes.image_ids,
        labels=scenes.labels_NC,
        class_names=scenes.class_names,
    )
    with accumulator:
        for epoch in range(args.epochs):
            batches.set_epoch(epoch)
            for images, labels, ids, geometry in loader:
                logits, cam = network(images)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if epoch >= args.start_epoch:
                    last = epoch == args.epochs - 1
                    accumulator.update(cam, logits, ids, geometry, fallback=last)
            accumulator.commit()
        return measure(network, accumulator, scenes)


@torch.no_grad()
def measure(
    network: OnlineCAM, accumulator: AttentionAccumulator, scenes: Scenes
) -> dict[str, float]:
    """Recall and noise of the final CAM and of the cumulative maps, over this rank's images."""
    network.eval()
    scenes.training = False
    classes = len(scenes.class_names)
    quality = {"cam": AttentionQuality(classes), "cumulative": AttentionQuality(classes)}
    owned = set(accumulator.image_ids)
    for n, name in enumerate(scenes.image_ids):
        if name not in owned:
            continue
        _, cam = network(scenes[n][0][None])
        mask = np.array(Image.open(scenes.root / "SegmentationClass" / f"{name}.png"))
        for c, cumulative in accumulator.maps(name).items():
            # As `oaa` measures: both on the grid of the store, spread over the image.
            side = cumulative.shape[-1]
            final = torch.nn.functional.interpolate(
                cam[:, c : c + 1], (side, side), mode="bilinear", align_corners=False
            )
            quality["cam"].update(c, resize_map(final[0, 0].relu().numpy(), *mask.shape), mask)
            quality["cumulative"].update(c, resize_map(cumulative.numpy(), *mask.shape), mask)
    return {
        f"{kind}/{figure}": getattr(summed(each).result(), figure)
        for kind, each in quality.items()
        for figure in ("recall", "noise")
    }


def summed(quality: AttentionQuality) -> AttentionQuality:
    """The counts of all ranks."""
    if dist.is_initialized():
        counts = torch.from_numpy(quality.counts)
        dist.all_reduce(counts)
        quality.counts[:] = counts.numpy()
    return quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder that `oaa data demo` has written")
    parser.add_argument("--store", required=True, help="the folder of the maps, new")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--start_epoch", type=int, default=1, help="first that accumulates, from 0")
    parser.add_argument("--side", type=int, default=128, help="of an input, in pixels")
    parser.add_argument("--batch_size", type=int, default=8, help="images of a process in a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    try:
        figures = train(args)
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(json.dumps(figures))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
