"""Qwen3.5, dense and with experts, with merged videos: it reads them as Qwen3-VL does.

Most of its layers have linear attention, and none takes DeepStack levels.
"""

from vllm.model_executor.models import qwen3_5, qwen3_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from sttm.vllm.qwen3_vl import MergingQwen3VL, Processor


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=qwen3_5.Qwen3_5ProcessingInfo,
    dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder,
)
class Qwen3_5ForConditionalGeneration(  # noqa: N801
    MergingQwen3VL, qwen3_5.Qwen3_5ForConditionalGeneration
):
    """vLLM's model; its name is vLLM's, too, which other parts of vLLM compare."""


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=qwen3_5.Qwen3_5MoeProcessingInfo,
    dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder,
)
class Qwen3_5MoeForConditionalGeneration(  # noqa: N801
    MergingQwen3VL, qwen3_5.Qwen3_5MoeForConditionalGeneration
):
    """vLLM's model; its name is vLLM's, too, which other parts of vLLM compare."""
