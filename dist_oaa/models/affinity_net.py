"""The affinity network: features of an image whose cells can be compared with one another.

After PSA's AffinityNet (Ahn and Kwak, CVPR 2018): several levels of a trunk, each reduced by a
1x1 convolution with ELU, brought to one grid, concatenated and mixed by another 1x1 convolution
with ELU. Two cells belong together as far as exp(-mean |f_i - f_j|) says (affinity_losses.py).
One thing is ours: each cell of a level is first normalised over its channels, so that trunks whose
features differ in scale by a factor of ten train alike, whatever else is in the batch.

Shape legend: B images, 3 colours, D channels, H x W pixels, h x w cells of the grid.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_oaa.config.affinity import AffinityNetConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.backbones import OWN_TRUNKS, Trunk, build_trunk, try_timm
from dist_oaa.models.normalisation import NORMALISATIONS, Normalisation
from dist_oaa.models.vgg16_oaa import STAGE_CHANNELS, STAGE_ENDS
from dist_oaa.models.weights import WeightsReport, load_trunk_weights

# PSA's: features then differ enough at the start for affinities well below 1.
MIX_GAIN = 4.0


class LevelsTrunk(Trunk):
    """A trunk that returns the feature maps of several of its stages, shallow ones first.

    Its weights have the names of the plain trunk of the same model.

    Attributes:
        level_channels: channels of each level.
    """

    def __init__(self, plain: Trunk, body: nn.Module, ends: Sequence[int], channels: list[int]):
        super().__init__(
            body,
            plain.channels,
            plain.stride,
            plain.mean,
            plain.std,
            plain.timm_name,
            plain.timm_options,
        )
        self._ends = tuple(ends)
        """Layers after which a plain sequence is tapped; empty where the body returns levels."""
        self.level_channels = channels

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images -> one (B, D, rows, columns) map a level."""
        if not self._ends:
            levels = self.body(images_B3HW)
            return [x.permute(0, 3, 1, 2) for x in levels] if self.channels_come_last else levels
        levels, x = [], images_B3HW
        for number, layer in enumerate(self.body, start=1):
            x = layer(x)
            if number in self._ends:
                levels.append(x)
                # The layers of VGG work in place; a level must stay as it is.
                x = x.clone()
        return levels


def build_levels_trunk(config: ModelConfig, levels: Sequence[int]) -> LevelsTrunk:
    """The trunk of `model` with several outputs and random weights.

    Args:
        levels: stages, 0 the shallowest, -1 the deepest; the deepest takes the place of
            `model.out_index` and has at most `model.output_stride`.

    Raises:
        UserError: what build_trunk raises; no such stages, or not in order; a trunk that takes
            images of one size only.
    """
    plain = build_trunk(dataclasses.replace(config, out_index=levels[-1]))
    own = config.backbone in OWN_TRUNKS
    stages = len(STAGE_ENDS) if own else len(plain.body.feature_info.info)
    chosen = [level + stages if level < 0 else level for level in levels]
    if chosen != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < stages:
        raise UserError(
            f"affinity.levels is {list(levels)}, expected stages of {config.backbone}, which has "
            f"{stages}, from shallow to deep: {-stages} to -1, or 0 to {stages - 1}"
        )
    if plain.fixed_size is not None:
        raise UserError(
            f"model.backbone is {config.backbone}, which takes images of {plain.fixed_size} "
            "pixels only; expected a trunk for images of any size"
        )
    if own:
        ends = [STAGE_ENDS[level] for level in chosen]
        return LevelsTrunk(plain, plain.body, ends, [STAGE_CHANNELS[level] for level in chosen])
    body = try_timm(config.backbone, plain.timm_options | {"out_indices": tuple(chosen)})
    assert body is not None, f"{config.backbone} was built with one level, not with several"
    if isinstance(body, EfficientNetFeatures | MobileNetV3Features):
        # As backbones.py does: these alone keep the stages behind the last level.
        body.blocks = body.blocks[: body.feature_info.get_dicts(keys=["stage"])[-1]["stage"]]
    return LevelsTrunk(plain, body, (), body.feature_info.channels())


class AffinityNet(nn.Module):
    """Levels of a trunk, a 1x1 convolution for each, and one for all of them together.

    Attributes:
        trunk: the levels; all else is new.
        normalisation: what turns images into the input of `forward`.
        stride: input pixels per cell of the features.
        multiple: sides of input images are multiples of this.
    """

    def __init__(self, trunk: LevelsTrunk, channels: Sequence[int], stride: int) -> None:
        super().__init__()
        self.trunk, self.stride = trunk, stride
        self.multiple = max(trunk.stride, stride)  # both are powers of two
        self.normalisation = Normalisation(mean=trunk.mean, std=trunk.std)
        self.batch_norm_is_frozen = False
        self.reduce = nn.ModuleList(
            nn.Conv2d(there, here, 1, bias=False)
            for there, here in zip(trunk.level_channels, channels, strict=True)
        )
        self.mix = nn.Conv2d(sum(channels), sum(channels), 1, bias=False)

    def reset_head(self, generator: torch.Generator) -> None:
        """New weights for all that is not in the trunk: He's for the levels, Xavier's for the mix
        (PSA)."""
        for layer in self.reduce:
            nn.init.kaiming_normal_(layer.weight, generator=generator)
        nn.init.xavier_uniform_(self.mix.weight, gain=MIX_GAIN, generator=generator)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Normalised images, sides multiples of `multiple` -> (B, D, H / stride, W / stride)."""
        grid = images_B3HW.shape[2] // self.stride, images_B3HW.shape[3] // self.stride
        levels = [
            to_grid(F.elu(reduce(normalise_cells(level_BDhw))), grid)
            for reduce, level_BDhw in zip(self.reduce, self.trunk(images_B3HW), strict=True)
        ]
        return F.elu(self.mix(torch.cat(levels, dim=1)))

    def freeze_batch_norm(self) -> None:
        """Keep the trunk's batch-norm statistics and affine parameters as they are, for good."""
        self.batch_norm_is_frozen = True
        for layer in self.trunk.modules():
            if isinstance(layer, _BatchNorm):
                layer.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "AffinityNet":
        """As nn.Module.train, but frozen batch norm stays in evaluation mode."""
        super().train(mode)
        if self.batch_norm_is_frozen:
            for layer in self.trunk.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self


def normalise_cells(level_BDhw: Tensor) -> Tensor:
    """Each cell with mean 0 and deviation 1 over its channels, computed in float32."""
    wide = torch.promote_types(level_BDhw.dtype, torch.float32)
    last_BhwD = level_BDhw.to(wide).permute(0, 2, 3, 1)
    return F.layer_norm(last_BhwD, last_BhwD.shape[-1:]).permute(0, 3, 1, 2)


def to_grid(level_BDhw: Tensor, grid: tuple[int, int]) -> Tensor:
    """A level on the grid of the features: averaged where it is finer, else linear between."""
    there = level_BDhw.shape[2:]
    if there == grid:
        return level_BDhw
    if there[0] >= grid[0] and there[1] >= grid[1]:
        return F.adaptive_avg_pool2d(level_BDhw, grid)
    return F.interpolate(level_BDhw, size=grid, mode="bilinear", align_corners=False)


def build_affinity_net(
    model: ModelConfig, affinity: AffinityNetConfig, seed: int
) -> tuple[AffinityNet, WeightsReport]:
    """The network of the settings, with its trunk's weights loaded, on the CPU in training mode.

    New weights are a function of the seed; the global random state is as before.

    Raises:
        UserError: what build_levels_trunk and load_trunk_weights raise.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the CUDA generators too.
        torch.random.default_generator.manual_seed(seed)
        trunk = build_levels_trunk(model, affinity.levels)
        network = AffinityNet(trunk, affinity.channels, affinity.stride)
        report = load_trunk_weights(trunk, model)
    network.reset_head(torch.Generator().manual_seed(seed))
    if model.freeze_batch_norm:
        network.freeze_batch_norm()
    if model.normalise != "auto":
        network.normalisation = NORMALISATIONS[model.normalise]
    return network, report
