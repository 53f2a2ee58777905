"""What vLLM's front end does: counts the tokens of a video before it is encoded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import MultiModalFieldConfig

from sttm.vllm.config import NUM_TOKENS, Reduction


class MergingProcessor:
    """Mixin in front of a model's processor in vLLM.

    The count is taken once, here, and travels with the video. So the placeholders in the prompt
    and the features from the worker cannot disagree.
    """

    info: Any

    @cached_property
    def reduction(self) -> Reduction | None:
        """How videos are reduced; None if they are not."""
        rate = self.info.ctx.get_mm_config().video_pruning_rate
        return Reduction.read(self.info.get_hf_config(), rate)

    def sizes(self, hf_inputs: Mapping[str, Any]) -> Sequence[int]:
        """Count the tokens of every video, without newlines."""
        raise NotImplementedError

    def placeholders(self, item: Mapping[str, Any], count: int) -> Any:
        """Return what stands for a video in the prompt: token ids, or vLLM's details of them.

        Args:
            item: the video's fields.
            count: tokens that are left of it.
        """
        raise NotImplementedError

    def _request(self, kwargs: Mapping[str, Any]) -> Reduction | None:
        if self.reduction is None:
            return None
        return self.reduction.of_request(self.info.ctx.get_merged_mm_kwargs(kwargs))

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        reduction = self._request(hf_processor_mm_kwargs)
        sizes = () if reduction is None else self.sizes(hf_inputs)
        if reduction is not None and len(sizes):
            hf_inputs[NUM_TOKENS] = torch.tensor([reduction.count(size) for size in sizes])
            fields[NUM_TOKENS] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        arguments = (mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        updates: Sequence[Any] = super()._get_prompt_updates(*arguments)  # type: ignore[misc]
        if self.reduction is None:
            return updates
        write = partial(self._replacement, out_mm_kwargs)
        return [
            replace(update, replacement=write) if update.modality == "video" else update
            for update in updates
        ]

    def _replacement(self, out_mm_kwargs: Any, item_idx: int) -> Any:
        item = out_mm_kwargs["video"][item_idx]
        return self.placeholders(item, int(item[NUM_TOKENS].data))

    def _get_mm_hashes(self, inputs: Any) -> Any:
        hashes = dict(super()._get_mm_hashes(inputs))  # type: ignore[misc]
        reduction = self._request(inputs.hf_processor_mm_kwargs)
        if reduction is not None and "video" in hashes:
            hash_kwargs = partial(
                MultiModalHasher.hash_kwargs,
                self.info.ctx.get_mm_config().mm_hasher_algorithm,
                sttm=reduction.fingerprint,
            )
            hashes["video"] = [hash_kwargs(mm_hash=mm_hash) for mm_hash in hashes["video"]]
        return hashes
