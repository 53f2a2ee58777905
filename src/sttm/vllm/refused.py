"""Relatives of supported models whose videos are not merged yet: a server that asks for it stops.

Without them vLLM would prune in its own way, or not at all, and say nothing.
"""

from typing import Any

from vllm.model_executor.models import qwen3_5, qwen3_vl_moe

from sttm.errors import UnsupportedModelError
from sttm.vllm.config import Reduction


class _Refusing:
    """Mixin in front of a model in vLLM."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config
        if Reduction.read(config.hf_config, config.multimodal_config.video_pruning_rate):
            raise UnsupportedModelError(
                f"got {type(self).__name__} with sttm in --hf-overrides, expected a model whose "
                "videos it merges in vLLM: see docs/vllm.md. Leave sttm out, or use sttm.attach() "
                "with transformers."
            )
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]


class Qwen3VLMoeForConditionalGeneration(
    _Refusing, qwen3_vl_moe.Qwen3VLMoeForConditionalGeneration
):
    """vLLM's model; it starts as long as nobody asks for sttm."""


class Qwen3_5ForConditionalGeneration(  # noqa: N801
    _Refusing, qwen3_5.Qwen3_5ForConditionalGeneration
):
    """vLLM's model; it starts as long as nobody asks for sttm."""


class Qwen3_5MoeForConditionalGeneration(  # noqa: N801
    _Refusing, qwen3_5.Qwen3_5MoeForConditionalGeneration
):
    """vLLM's model; it starts as long as nobody asks for sttm."""
