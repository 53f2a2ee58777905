"""Qwen2-VL with merged videos."""

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.model_executor.models import qwen2_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from sttm.vllm.merging import MergingMRoPE
from sttm.vllm.processing import MergingProcessor


class QwenProcessor(MergingProcessor):
    """Counts the tokens of Qwen's videos, and writes one run of placeholders."""

    def sizes(self, hf_inputs: Mapping[str, Any]) -> Sequence[int]:
        """Count the tokens of every video."""
        grids = hf_inputs.get("video_grid_thw")
        merge = self.info.get_hf_config().vision_config.spatial_merge_size
        return () if grids is None else [int(grid.prod()) // merge**2 for grid in grids]

    def placeholders(self, item: Mapping[str, Any], count: int) -> Any:
        """Return as many video tokens as are left."""
        return [self.info.get_hf_config().video_token_id] * count


class Processor(QwenProcessor, qwen2_vl.Qwen2VLMultiModalProcessor):
    """vLLM's processor with merged videos."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=qwen2_vl.Qwen2VLProcessingInfo,
    dummy_inputs=qwen2_vl.Qwen2VLDummyInputsBuilder,
)
class Qwen2VLForConditionalGeneration(MergingMRoPE, qwen2_vl.Qwen2VLForConditionalGeneration):
    """vLLM's model; its name is vLLM's, too, which other parts of vLLM compare."""
