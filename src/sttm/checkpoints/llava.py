"""LLaVA-Video in transformers: its LLaVA-OneVision classes, with newlines where LLaVA has them."""

from typing import Any, Self

import torch
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionModel,
    LlavaOnevisionPreTrainedModel,
    LlavaOnevisionProcessor,
)

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.models.families import pooled_side
from sttm.models.newlines import NEWLINES, newline_marks
from sttm.models.transformers_api import PIXELS, POOLED

NEWLINE_KEY = "mm_newline_position"
PLAIN = "one_token"  # what transformers' own classes do


def check_newline(mode: str) -> str:
    """Return a newline mode.

    Raises:
        ConfigError: there is no such mode.
    """
    if mode not in NEWLINES:
        raise ConfigError(f"newline: got {mode!r}, expected one of: {', '.join(NEWLINES)}.")
    return mode


class LlavaVideoModel(LlavaOnevisionModel):  # type: ignore[misc]  # transformers is untyped
    """LLaVA-OneVision whose configuration says where a video has newline tokens."""

    @property
    def newline(self) -> str:
        """One of ``NEWLINES``."""
        mode: str = getattr(self.config, NEWLINE_KEY, PLAIN)
        return mode

    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode videos; as transformers does it, but for the newline tokens."""
        as_tuple = kwargs.pop("return_dict", None) is False
        output = super().get_video_features(
            pixel_values_videos,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            return_dict=True,
            **kwargs,
        )
        output[POOLED] = self.place_newlines(
            output[POOLED][:, :-1], frames=pixel_values_videos.shape[1]
        )
        return output.to_tuple() if as_tuple else output

    def place_newlines(self, features: torch.Tensor, *, frames: int) -> torch.Tensor:
        """Put newline tokens among the features of videos.

        Args:
            features: ``(videos, frames * side * side, C)``, pooled and in order t, y, x.
            frames: per video.

        Returns:
            ``(videos, n, C)``.
        """
        side = pooled_side(self.config.vision_config)
        marks = newline_marks(self.newline, VideoGrid(frames, side, side)).to(features.device)
        newline: torch.Tensor = self.image_newline.to(features.device, features.dtype)
        placed = newline.expand(len(features), len(marks), -1).clone()
        placed[:, ~marks] = features
        return placed


class LlavaVideoForConditionalGeneration(
    LlavaOnevisionForConditionalGeneration  # type: ignore[misc]
):
    """LLaVA-OneVision for generation, around `LlavaVideoModel`."""

    def __init__(self, config: Any) -> None:
        # Not the parent's: that would build the same layers twice.
        LlavaOnevisionPreTrainedModel.__init__(self, config)
        text = config.text_config
        self.model = LlavaVideoModel(config)
        self.lm_head = torch.nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()


class LlavaVideoProcessor(LlavaOnevisionProcessor):  # type: ignore[misc]
    """LLaVA-OneVision's processor, which counts the newline tokens that a model places."""

    def of(self, config: Any) -> Self:
        """Count as the model of a configuration does; needed before any video is processed."""
        self._newline: str = getattr(config, NEWLINE_KEY)
        self._side = pooled_side(config.vision_config)
        return self

    def replace_video_token(
        self, video_inputs: dict[str, Any], video_idx: int, **kwargs: Any
    ) -> str:
        """Write the placeholders of one video."""
        return str(self.video_token) * self._count(len(video_inputs[PIXELS["video"]][video_idx]))

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> Any:
        counted = super()._get_num_multimodal_tokens(image_sizes, video_sizes, **kwargs)
        if video_sizes is not None:
            counted.num_video_tokens = [self._count(frames) for frames, *_ in video_sizes]
        return counted

    def _count(self, frames: int) -> int:
        """Count the tokens of a video, newlines included."""
        return len(newline_marks(self._newline, VideoGrid(frames, self._side, self._side)))
