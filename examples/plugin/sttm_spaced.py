"""A method and a model family of one's own: installed as a package, or named with --plugin.

sttm --plugin sttm_spaced ask clip.mp4 "What happens?" --method spaced --keep 0.3
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from sttm.methods import TokenPruner, VideoFeatures, register
from sttm.models import register_family
from sttm.models.families import LlavaOnevision


@register
@dataclass(frozen=True)
class Spaced(TokenPruner):
    """Keep evenly spaced tokens; drop the others."""

    name: ClassVar[str] = "spaced"

    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay; see ``sttm.methods.TokenPruner``."""
        return torch.arange(count) * video.grid.num_tokens // count


# A model that transformers does not know: it is told about it first, in its own way.
class RelabelledConfig(LlavaOnevisionConfig):  # type: ignore[misc]
    model_type = "relabelled_onevision"


class RelabelledModel(LlavaOnevisionForConditionalGeneration):  # type: ignore[misc]
    config_class = RelabelledConfig


AutoConfig.register(RelabelledConfig.model_type, RelabelledConfig)
AutoModelForImageTextToText.register(RelabelledConfig, RelabelledModel)


@register_family
class Relabelled(LlavaOnevision):
    """LLaVA-OneVision under another name."""

    family = "LLaVA-OneVision, relabelled"
    model_types = (RelabelledConfig.model_type,)
