"""Qwen3-VL with experts, with merged videos."""

from vllm.model_executor.models import qwen3_vl, qwen3_vl_moe
from vllm.multimodal import MULTIMODAL_REGISTRY

from sttm.vllm.qwen3_vl import MergingQwen3VL, Processor


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=qwen3_vl_moe.Qwen3VLMoeProcessingInfo,
    dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder,
)
class Qwen3VLMoeForConditionalGeneration(
    MergingQwen3VL, qwen3_vl_moe.Qwen3VLMoeForConditionalGeneration
):
    """vLLM's model; its name is vLLM's, too, which other parts of vLLM compare."""
