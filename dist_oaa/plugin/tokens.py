"""Vision transformers as feature extractors: their patch tokens, laid out as the map they are.

Legend: B images, N tokens, D channels of a token, h x w patches.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from dist_oaa.config.errors import UserError

# A class token, and registers; more would rather be patches of a grid that was guessed wrong.
MOST_PREFIX_TOKENS = 64


def patch_grid(encoder: nn.Module, input_hw: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of patches, from the convolution that cuts them; None where there is none.

    Patches that the input does not fill are counted: encoders that take such inputs pad them.
    """
    for layer in encoder.modules():
        if not isinstance(layer, nn.Conv2d) or tuple(layer.kernel_size) != tuple(layer.stride):
            continue
        if max(layer.stride) > 1:
            rows, columns = (
                math.ceil(side / step) for side, step in zip(input_hw, layer.stride, strict=True)
            )
            return rows, columns
    return None


def tokens_to_map(tokens_BND: Tensor, grid_hw: tuple[int, int] | None) -> Tensor | None:
    """The last h * w tokens as (B, D, h, w), a view; None where they do not fit the grid."""
    rows, columns = grid_hw or (0, 0)
    prefix = tokens_BND.shape[1] - rows * columns
    if rows * columns == 0 or not 0 <= prefix <= MOST_PREFIX_TOKENS:
        return None
    return tokens_BND[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))


class TokenMap(nn.Module):
    """The patch tokens of an image encoder as a feature map (B, D, h, w), for a head of your own.

        model = nn.Sequential(
            TokenMap(encoder), nn.Conv2d(384, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        logits, cam = OnlineCAM(model)(images)

    For encoders that classify by a class token (ViT, DINOv2, CLIP): attention stands between their
    patches and their score, so that no map adds up to it, but a new head on the patches has one.

    Args:
        encoder: of timm (`forward_features`), DINOv2 (`x_norm_patchtokens`), transformers
            (`last_hidden_state`), or any module that gives (B, N, D) tokens, class token and
            registers first.
        tokens: takes the encoder's output to its (B, N, D) tokens, where it is none of these.
    """

    def __init__(self, encoder: nn.Module, tokens: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        self.encoder, self.tokens = encoder, tokens

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images to (B, D, h, w) features.

        Raises:
            UserError: when there are no tokens in the encoder's output, or not as many as patches.
        """
        run = getattr(self.encoder, "forward_features", self.encoder)
        output = run(images)
        found = self.tokens(output) if self.tokens is not None else _tokens_of(output)
        input_hw = (images.shape[-2], images.shape[-1])
        grid_hw = patch_grid(self.encoder, input_hw)
        is_tokens = isinstance(found, Tensor) and found.ndim == 3
        features = tokens_to_map(found, grid_hw) if is_tokens else None
        if features is None:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"{type(self.encoder).__name__} gives {shape} for inputs of {input_hw[0]} x "
                f"{input_hw[1]} pixels, expected (B, N, D) tokens of {grid_hw} patches; name them "
                "with tokens="
            )
        return features


def _tokens_of(output: Any) -> Any:
    """The tokens in the output of an encoder of a known kind."""
    if isinstance(output, Mapping) and "x_norm_patchtokens" in output:
        return output["x_norm_patchtokens"]
    return getattr(output, "last_hidden_state", output)
