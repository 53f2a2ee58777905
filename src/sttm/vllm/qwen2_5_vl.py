"""Qwen2.5-VL with merged videos."""

from vllm.model_executor.models import qwen2_5_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from sttm.vllm.merging import MergingMRoPE
from sttm.vllm.qwen2_vl import QwenProcessor


class Processor(QwenProcessor, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor):
    """vLLM's processor with merged videos."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=qwen2_5_vl.Qwen2_5_VLProcessingInfo,
    dummy_inputs=qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder,
)
class Qwen2_5_VLForConditionalGeneration(  # noqa: N801
    MergingMRoPE, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration
):
    """vLLM's model; its name is vLLM's, too, which other parts of vLLM compare."""
