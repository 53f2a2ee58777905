"""A method and a model family of one's own: installed as a package, or named with --plugin.

sttm --plugin sttm_every_second ask clip.mp4 "What happens?" --method every-second:step=3
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

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods import register
from sttm.models import register_family
from sttm.models.families import LlavaOnevision
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class Spaced:
    """Keep evenly spaced tokens; drop the others."""

    name: ClassVar[str] = "spaced"
    query_aware: ClassVar[bool] = False

    keep: float | int

    def __post_init__(self) -> None:
        check_keep(self.keep)

    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan one video; see ``sttm.Method``."""
        count = grid.check(x).shape[0]
        budget = token_budget(self.keep, count)
        kept = torch.arange(budget, device=x.device) * count // budget
        group = torch.full((count,), -1, device=x.device)
        group[kept] = torch.arange(budget, device=x.device)
        return MergePlan.from_groups(group=group, anchor=kept)


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
