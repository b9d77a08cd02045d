"""Settings of the classifier and of its optimisation."""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class EraseConfig:
    """What the variants that erase hide from themselves; each reads its own settings."""

    acol_delta: float = 0.6
    """Attention of head A from which head B sees nothing, above 0 to 1 (0.6: the authors' code and
    scripts; wsolevaluation 0.7)."""
    adl_gamma: float = 0.9
    """Share of the highest mean feature from which a cell is dropped, 0 to 1 (0.9: the authors'
    script for ResNet50-SE and the command line of wsolevaluation, whose layer itself has 0.8)."""
    adl_rate: float = 0.75
    """Probability that an image gets the drop mask, else the importance map, 0 to 1 (0.75: the
    authors' code and wsolevaluation)."""
    adl_where: Literal["features", "head", "both"] = "features"
    """Where the dropout layer sits: the trunk's feature map (the last of the paper's places), the
    one before the class-aware convolution, or both."""
    seenet_high: float = 0.8
    """Attention of head A from which head B sees nothing, 0 to 1 (0.8: the network that the authors
    released)."""
    seenet_low: float = 0.05
    """Attention of head A under which head B sees the features negated in training, 0 to
    seenet_high (0.05: a third party's training code; the authors released none)."""
    seenet_background: float = 0.3
    """Attention of head A above which head C sees nothing, 0 to 1 (0.3: a third party's training
    code)."""

    def __post_init__(self) -> None:
        shares = ("adl_gamma", "adl_rate", "seenet_high", "seenet_low", "seenet_background")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"model.erase.{name} is {getattr(self, name)}, expected 0 to 1")
        if not 0 < self.acol_delta <= 1:
            raise ValueError(
                f"model.erase.acol_delta is {self.acol_delta}, expected more than 0, at most 1"
            )
        if self.seenet_low > self.seenet_high:
            raise ValueError(
                f"model.erase.seenet_low is {self.seenet_low}, expected at most "
                f"model.erase.seenet_high, which is {self.seenet_high}"
            )


@dataclass(kw_only=True)
class TwoBranchConfig:
    """The network `two_branch`: what its branch F2 learns from the maps that its branch F1
    accumulates in the same run."""

    classification_weight: float = 1.0
    """Weight of F1's classification loss, above 0."""
    integral_weight: float = 1.0
    """Weight of F2's loss against the cumulative maps, above 0."""
    start_epoch: int = 1
    """First epoch, counted from 0, in which F2 learns, at least accumulate.start_epoch: before it
    there are no maps. The papers' F2 learns while F1 accumulates, so that 1 is the first epoch
    that accumulates by default; later means maps that are nearer to their end."""
    loss: Literal["mce", "ep", "hybrid"] = "hybrid"
    """F2's loss, as `integral.loss` of `oaa integral` (hybrid, Eq. 9: the papers')."""
    threshold: float = 0.0
    """tau: a cell counts as attended where its target exceeds it, 0 to below 1."""
    normalise: Literal["pooled", "per_class"] = "pooled"
    """Over what the means of F2's loss run, as `integral.normalise` of `oaa integral`."""

    def __post_init__(self) -> None:
        for name in ("classification_weight", "integral_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"model.two_branch.{name} is {getattr(self, name)}, expected a weight above 0"
                )
        if self.start_epoch < 0:
            raise ValueError(
                f"model.two_branch.start_epoch is {self.start_epoch}, expected 0 or more"
            )
        if not 0 <= self.threshold < 1:
            raise ValueError(
                f"model.two_branch.threshold is {self.threshold}, expected 0 to below 1"
            )


@dataclass(kw_only=True)
class ModelConfig:
    """The classifier: a trunk, three 3x3 convolutions and a class-aware 1x1 convolution."""

    variant: Literal["cam", "acol", "adl", "seenet", "two_branch"] = "cam"
    """cam is the plain classifier of OAA; acol (two heads), adl (a dropout layer) and seenet (three
    heads) erase what they attend to while they train; two_branch has a second head that learns the
    maps which the first one accumulates."""
    labels: Literal["multi", "single"] = "multi"
    """multi: an image may have several classes, each a problem of its own (sigmoid); single: each
    image has exactly one class, and classes exclude each other (softmax)."""
    backbone: str = "tf_efficientnet_lite0"
    """`vgg16_oaa` (the papers' VGG16) or the name of any timm model with feature extraction."""
    weights: str = "timm"
    """Source of the trunk's weights: `timm` (its hub), `none`, `package:NAME` (an installed
    weights package), or the path of a .pth or .safetensors file."""
    output_stride: int = 16
    """Input pixels per feature cell: 8, 16 or 32 where the trunk supports it."""
    out_index: int = -1
    """Which stage of the trunk feeds the head, 0 the shallowest, -1 the deepest."""
    head_channels: int = 512
    """Channels of the head's 3x3 convolutions, a count."""
    head_layers: int = 3
    """Number of 3x3 convolutions (each with a ReLU) before the class-aware one, a count."""
    freeze_batch_norm: bool = True
    """Keep the trunk's batch-norm statistics and affine parameters as they were pretrained."""
    normalise: Literal["auto", "imagenet", "half", "caffe"] = "auto"
    """Input normalisation: auto takes the trunk's own, imagenet its mean and deviation, half maps
    to [-1, 1], caffe subtracts the BGR mean from 0..255 values."""
    erase: EraseConfig = field(default_factory=EraseConfig)
    """Thresholds of the erasing variants"""
    two_branch: TwoBranchConfig = field(default_factory=TwoBranchConfig)
    """The variant of two branches"""

    def __post_init__(self) -> None:
        if self.output_stride not in (4, 8, 16, 32):
            raise ValueError(
                f"model.output_stride is {self.output_stride}, expected 4, 8, 16 or 32"
            )
        if self.head_channels < 1 or self.head_layers < 0:
            raise ValueError(
                f"model.head_channels is {self.head_channels} and model.head_layers is "
                f"{self.head_layers}, expected at least 1 and 0"
            )
        if self.labels == "single" and self.variant == "seenet":
            raise ValueError(
                "model.labels is single and model.variant is seenet, expected cam, acol, adl or "
                "two_branch: seenet's third head learns that no class is there, which a softmax "
                "cannot say"
            )


@dataclass(kw_only=True)
class OptimConfig:
    """Optimiser, schedule and batch."""

    batch_size: int = 16
    """Images of one optimiser step over all ranks together, a count: the same at any world size."""
    accumulate: int = 1
    """Micro-batches into which each rank splits its part of a step, to save memory, a count."""
    epochs: int = 8
    """Passes over the images, a count."""
    max_steps: int = 0
    """Stop after this many optimiser steps although epochs are left, a count; 0 means no limit."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd with momentum (the papers') or adamw."""
    lr: float = 0.01
    """Base learning rate of the trunk's weights, per step."""
    multipliers: list[float] = field(default_factory=lambda: [1.0, 2.0, 10.0, 20.0])
    """Factors on the learning rate of trunk weights, trunk biases, head weights, head biases."""
    momentum: float = 0.9
    """Momentum of sgd, 0 to 1."""
    nesterov: bool = False
    """Use Nesterov's form of the momentum (the public PyTorch code does)."""
    clip_norm: float = 0.0
    """Largest L2 norm of a step's gradient over all weights; a longer one is scaled down to it. 0
    leaves gradients as they are."""
    weight_decay: float = 5e-4
    """L2 penalty per step, in units of the learning rate."""
    decay_biases: bool = True
    """Apply the weight decay to biases too; the Caffe recipe does not."""
    schedule: Literal["constant", "step", "poly"] = "poly"
    """constant, step (divide by ten at each milestone) or poly ((1 - t)^power)."""
    milestones: list[float] = field(default_factory=lambda: [0.6667])
    """Shares of the whole training after which `step` divides the rate by ten, each 0 to 1."""
    power: float = 0.9
    """Exponent of the poly schedule."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly from a tenth, a count."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass (autocast); fp16 scales the loss and needs a GPU."""
    on_non_finite: Literal["stop", "skip_batch"] = "stop"
    """What a NaN or an infinity in the CAM, the loss or the gradient does, on all ranks and before
    the step: stop the run, or leave the step out (weights and maps stay as they were) and count
    it. Either way RUN/non_finite.json names the images."""
    skip_limit: float = 0.1
    """Share of an epoch's steps that skip_batch may leave out before the run stops, 0 to 1."""
    channels_last: bool = True
    """Keep activations in channels-last order (faster convolutions on most devices)."""
    compile: bool = False
    """Compile the classifier with torch.compile."""
    exact_elastic: bool = False
    """Weights, maps and figures that are the same to the last bit at any number of processes on
    machines of one kind, also when that number changes between --resume and --resume; in short
    --exact-elastic. Slower: a step is computed in `virtual_batches` small parts, with
    deterministic kernels and, on a CPU, with one thread a process (or runtime.threads), and each
    process keeps the gradient of every part of its own. The default promises the same images in
    each step, and results that differ in their last digits."""
    virtual_batches: int = 8
    """Parts of a step with exact_elastic, a count from 1 to 4096: at most so many processes can
    share a step, and a multiple of the processes shares it evenly. Fewer parts are faster; another
    number gives other last digits."""

    def __post_init__(self) -> None:
        self._check_exact()
        for name in ("batch_size", "accumulate", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, expected at least 1")
        for name in ("max_steps", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 < self.lr <= 1e30:
            raise ValueError(f"optim.lr is {self.lr}, expected a rate above 0, at most 1e30")
        if not self.clip_norm >= 0:
            raise ValueError(f"optim.clip_norm is {self.clip_norm}, expected a norm of 0 or more")
        if not 0 <= self.skip_limit <= 1:
            raise ValueError(f"optim.skip_limit is {self.skip_limit}, expected a share 0 to 1")
        if len(self.multipliers) != 4 or min(self.multipliers) < 0:
            raise ValueError(
                f"optim.multipliers is {self.multipliers}, expected four factors of 0 or more "
                "[trunk weight, trunk bias, head weight, head bias]"
            )
        if any(not 0 < m < 1 for m in self.milestones):
            raise ValueError(
                f"optim.milestones is {self.milestones}, expected shares between 0 and 1"
            )

    @property
    def groups(self) -> int:
        """Groups of shards that are dealt to the ranks whole; 0 where each is dealt by itself."""
        return self.virtual_batches if self.exact_elastic else 0

    def _check_exact(self) -> None:
        """Refuses what cannot be repeated at another number of processes."""
        if not 1 <= self.virtual_batches <= 4096:
            raise ValueError(f"optim.virtual_batches is {self.virtual_batches}, expected 1 to 4096")
        if not self.exact_elastic:
            return
        if self.accumulate > 1:
            raise ValueError(
                f"optim.accumulate is {self.accumulate}, expected 1 with optim.exact_elastic: "
                "optim.virtual_batches splits a step already"
            )
        if self.precision == "fp16":
            raise ValueError(
                "optim.precision is fp16, expected bf16 or fp32 with optim.exact_elastic: fp16's "
                "scaled gradients may overflow, which exact sums cannot hold"
            )
        if self.compile:
            raise ValueError(
                "optim.compile is true, expected false with optim.exact_elastic: what is compiled "
                "depends on the shapes that a process has met"
            )
