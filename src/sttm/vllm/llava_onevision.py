"""LLaVA-OneVision with merged videos."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.model_executor.models import llava_onevision
from vllm.multimodal import MULTIMODAL_REGISTRY

from sttm.grid import VideoGrid
from sttm.vllm.merging import MergingModel
from sttm.vllm.processing import MergingProcessor


class Processor(MergingProcessor, llava_onevision.LlavaOnevisionMultiModalProcessor):
    """vLLM's processor with merged videos."""

    def sizes(self, hf_inputs: Mapping[str, Any]) -> Sequence[int]:
        """Count the tokens of every video."""
        config = self.info.get_hf_config()
        return [_grid(config, v).num_tokens for v in hf_inputs.get("pixel_values_videos", ())]

    def placeholders(self, item: Mapping[str, Any], count: int) -> Any:
        """Return as many video tokens as are left, and one for the newline."""
        return [self.info.get_hf_config().video_token_index] * (count + 1)


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=llava_onevision.LlavaOnevisionProcessingInfo,
    dummy_inputs=llava_onevision.LlavaOnevisionDummyInputsBuilder,
)
class LlavaOnevisionForConditionalGeneration(
    MergingModel, llava_onevision.LlavaOnevisionForConditionalGeneration
):
    """vLLM's model; its name is vLLM's, too, which other parts of vLLM compare."""

    fields = ("pixel_values_videos",)

    def video_grid(self, item: Mapping[str, Any]) -> VideoGrid:
        """Read the frames from the pixels and the side from the configuration."""
        return _grid(self.config, item["pixel_values_videos"])


def _grid(config: Any, pixels: Any) -> VideoGrid:
    """Return the shape of a video; its frames are square, and pooled to half, rounded up."""
    vision = config.vision_config
    side = -(-(vision.image_size // vision.patch_size) // 2)
    return VideoGrid(len(pixels), side, side)
