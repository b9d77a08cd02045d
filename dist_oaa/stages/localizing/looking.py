"""What a trained classifier says of images: classes by their probability, and maps of some.

Legend: B images of a batch, C classes, P pairs of (image, class), S map cells along a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dist_oaa.attention.vectorised import attention_maps, sample_maps
from dist_oaa.config.errors import UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.loader import Batch
from dist_oaa.evaluation.localization import TOP
from dist_oaa.models.classifier import Prediction, valid_cells
from dist_oaa.models.losses import probabilities
from dist_oaa.stages.trained import Trained
from dist_oaa.stages.training import autocast


@dataclass(frozen=True)
class Looked:
    """What is said of one image."""

    ranked: list[int]
    """The TOP most probable classes, or all there are, best first."""
    probability_C: np.ndarray
    """float32; a softmax of single labels, else each class by itself."""
    maps: dict[int, np.ndarray]
    """Class index -> (S, S) float32 in [0, 1], of the ranked and of the wanted classes."""


@dataclass
class Looker:
    """A trained network that looks at images.

    Raises:
        UserError: when fp16 is asked for on a CPU.
    """

    trained: Trained
    device: torch.device
    views: ViewsConfig
    activation: Literal["cam", "sigmoid"]
    map_size: int
    precision: str

    def __post_init__(self) -> None:
        if self.precision == "fp16" and self.device.type == "cpu":
            raise UserError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
        self._optim = OptimConfig(precision=self.precision)
        self.model = self.trained.model.to(self.device).eval()
        if self._optim.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.broken = 0
        """Pairs whose features were not finite in some view; their view counts as 0."""

    @torch.no_grad()
    def look(self, looks: Sequence[Batch], wanted_BC: np.ndarray | None = None) -> list[Looked]:
        """Looks at a batch of images.

        Args:
            looks: its views, then its crops; without crops the views tell the classes, too.
            wanted_BC: 1 for classes of each image whose maps are wanted in any case.

        Raises:
            UserError: when the scores are not finite.
        """
        views, crops = looks[: self.views.count], looks[self.views.count :]
        seen = [self._forward(batch) for batch in views]
        logits = [one.logits_BC for one in (map(self._forward, crops) if crops else seen)]
        kind = self.trained.config.labels
        probability_BC = torch.stack([probabilities(each, kind) for each in logits]).mean(dim=0)
        if not bool(torch.isfinite(probability_BC).all()):
            raise UserError(
                f"the network's scores for {looks[0].ids[0]} or an image beside it are not finite: "
                f"the checkpoint's weights are not, or precision {self.precision} does not suit it"
            )
        probability_BC = probability_BC.float().cpu().numpy()
        ranked_BK = np.argsort(-probability_BC, axis=1, kind="stable")[:, :TOP]
        chosen_BC = np.zeros(probability_BC.shape, dtype=bool)
        np.put_along_axis(chosen_BC, ranked_BK, True, axis=1)
        if wanted_BC is not None:
            chosen_BC |= wanted_BC.astype(bool)
        image_P, class_P = np.nonzero(chosen_BC)
        maps_PSS = self._maps(views, seen, image_P, class_P)
        found: list[dict[int, np.ndarray]] = [{} for _ in looks[0].ids]
        for image, class_index, map_SS in zip(image_P, class_P, maps_PSS, strict=True):
            found[image][int(class_index)] = map_SS
        return [
            Looked(ranked_BK[b].tolist(), probability_BC[b], found[b]) for b in range(len(found))
        ]

    def _forward(self, batch: Batch) -> Prediction:
        extent_B2 = batch.extent_B2.to(self.device)
        images = batch.images_B3HW.to(self.device)
        images_B3HW = self.model.normalisation.apply(images, extent_B2)
        if self._optim.channels_last:
            images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        with autocast(self._optim, self.device):
            return self.model(images_B3HW, extent_B2)

    def _maps(
        self,
        views: Sequence[Batch],
        seen: Sequence[Prediction],
        image_P: np.ndarray,
        class_P: np.ndarray,
    ) -> np.ndarray:
        """Maps (P, S, S) float32: the views combined, cell by cell, over their own maximum."""
        image = torch.from_numpy(image_P).to(self.device)
        class_ = torch.from_numpy(class_P).to(self.device)
        found = [self._map(v, s, image, class_) for v, s in zip(views, seen, strict=True)]
        values_VPSS = torch.stack([values for values, _ in found])
        finite_P = torch.stack([finite for _, finite in found]).all(dim=0)
        self.broken += int((~finite_P).sum())
        combine = torch.amax if self.views.combine == "max" else torch.mean
        combined_PSS = combine(values_VPSS, dim=0)
        peak_P11 = combined_PSS.amax(dim=(1, 2), keepdim=True)
        return torch.where(peak_P11 > 0, combined_PSS / peak_P11, 0.0).cpu().numpy()

    def _map(
        self, batch: Batch, seen: Prediction, image_P: torch.Tensor, class_P: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention (P, S, S) of one view in the frame of the whole image, and which is finite."""
        cam_BCHW = seen.cam_BCHW
        cells_B2 = valid_cells(
            batch.extent_B2.to(self.device), batch.images_B3HW.shape[-2:], cam_BCHW.shape[-2:]
        )
        cells_P2, cam_PHW = cells_B2[image_P], cam_BCHW[image_P, class_P]
        geometry_P23 = batch.geometry_B23.to(self.device)[image_P]
        if self.activation == "cam":
            values_PSS, _, finite_P = attention_maps(cam_PHW, cells_P2, geometry_P23, self.map_size)
            return values_PSS, finite_P
        q_PHW = torch.sigmoid(cam_PHW.float())
        values_PSS, _ = sample_maps(q_PHW, cells_P2, geometry_P23, self.map_size)
        finite_P = torch.isfinite(values_PSS).flatten(1).all(dim=1)
        return torch.where(finite_P[:, None, None], values_PSS, 0.0), finite_P
