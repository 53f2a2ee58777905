"""Qwen3-VL with merged videos: DeepStack levels merge with the same plan.

A video is a run of tokens per frame, with a timestamp before each. How many tokens a frame keeps is
known only after the video was encoded. So the placeholders are one run as long as the whole, and
the features hold the embeddings of the timestamps, too.
"""

from collections.abc import Mapping
from typing import Any

import torch
from vllm.model_executor.models import qwen3_vl
from vllm.multimodal import MULTIMODAL_REGISTRY

from sttm.plan import MergePlan
from sttm.vllm.merging import MergingMRoPE
from sttm.vllm.qwen2_vl import QwenProcessor


def _written(item: Mapping[str, Any], counts: list[int], tokenizer: Any, config: Any) -> Any:
    """Write a video with ``counts[t]`` tokens of frame t, as vLLM writes it."""
    return qwen3_vl.Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=counts,
        timestamps=item["timestamps"],
        tokenizer=tokenizer,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        video_token_id=config.video_token_id,
        select_token_id=True,
    )


class Processor(QwenProcessor, qwen3_vl.Qwen3VLMultiModalProcessor):
    """vLLM's processor with merged videos."""

    def placeholders(self, item: Mapping[str, Any], count: int) -> Any:
        """Return one run of video tokens; a video that keeps all its tokens is vLLM's own."""
        config = self.info.get_hf_config()
        frames, height, width = map(int, item["video_grid_thw"].data)
        per_frame = height * width // config.vision_config.spatial_merge_size**2
        is_whole = count == frames * per_frame
        counts = [per_frame] * frames if is_whole else [count] + [0] * (frames - 1)
        stamps = {"timestamps": item["timestamps"].data}
        written = _written(stamps, counts, self.info.get_tokenizer(), config)
        return written if is_whole else [config.video_token_id] * len(written.full)


class MergingQwen3VL(MergingMRoPE):
    """Mixin in front of a model in vLLM that reads videos as Qwen3-VL does."""

    fields = ("video_grid_thw", "timestamps")
    _tokenizer: Any
    get_language_model: Any

    def unmerged(self, item: Mapping[str, Any]) -> list[int]:
        """Return the token ids of a video that is not merged: timestamps, marks and tokens."""
        grid = self.video_grid(item)
        counts = [grid.tokens_per_frame] * grid.frames
        written: list[int] = _written(item, counts, self._tokenizer, self.config).full
        return written

    def arrange(
        self, rows: torch.Tensor, plan: MergePlan, item: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the embeddings of timestamps and marks between the frames.

        Args:
            rows: ``(M, C)``, DeepStack levels included.
            plan: which tokens they are.
            item: the video's fields.

        Returns:
            ``(L, C)``, and ``(L,)`` int64: their places in the unmerged video.
        """
        ids = torch.tensor(self.unmerged(item), device=rows.device)
        is_video = ids == self.config.video_token_id
        stays = ~is_video
        stays[is_video.nonzero().squeeze(1)[plan.anchor]] = True
        place = stays.nonzero().squeeze(1)
        text = self.get_language_model().embed_input_ids(ids[place])
        out = rows.new_zeros((len(place), rows.shape[1]))
        out[:, : text.shape[1]] = text
        out[is_video[place]] = rows
        return out, place


@MULTIMODAL_REGISTRY.register_processor(
    Processor,
    info=qwen3_vl.Qwen3VLProcessingInfo,
    dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder,
)
class Qwen3VLForConditionalGeneration(MergingQwen3VL, qwen3_vl.Qwen3VLForConditionalGeneration):
    """vLLM's model; its name is vLLM's, too, which other parts of vLLM compare."""
