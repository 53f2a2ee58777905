"""What vLLM's workers do: merge the features of a video, and place the merged tokens."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from vllm.distributed import get_tp_group
from vllm.multimodal.inputs import (
    MultiModalFeatureSpec,
    MultiModalFieldConfig,
    MultiModalFieldElem,
    MultiModalKwargsItem,
    PlaceholderRange,
)

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures
from sttm.plan import MergePlan
from sttm.vllm.config import NUM_TOKENS, Reduction
from sttm.vllm.positions import pack, place_rows

_logger = logging.getLogger("vllm.sttm")


class MergingModel:
    """Mixin in front of a model in vLLM whose text has 1-D positions.

    Attributes:
        fields: what the processor gives of every video, as far as this class reads it.
    """

    fields: ClassVar[tuple[str, ...]]
    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        rate = vllm_config.model_config.multimodal_config.video_pruning_rate
        self.reduction = Reduction.read(vllm_config.model_config.hf_config, rate)
        if self.reduction is not None:
            _check_engine(vllm_config)
            self.is_multimodal_pruning_enabled = False  # the model's own pruning
            _logger.info("sttm merges videos: %s", self.reduction)

    def video_grid(self, item: Mapping[str, Any]) -> VideoGrid:
        """Return a video's shape in tokens."""
        raise NotImplementedError

    def assemble(
        self, rows: torch.Tensor, plan: MergePlan, item: Mapping[str, Any]
    ) -> torch.Tensor:
        """Return what stands for a merged video: its rows, and whatever else belongs to it.

        Args:
            rows: ``(M + newlines, C)``.
            plan: which tokens they are.
            item: the video's fields.
        """
        return rows

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Encode images or videos, and merge the videos."""
        counts = kwargs.pop(NUM_TOKENS, None)
        rows = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if counts is None:
            return rows
        fields = [name for name in self.fields if kwargs.get(name) is not None]
        items = [{name: kwargs[name][i] for name in fields} for i in range(len(counts))]
        return tuple(self._reduce(*one) for one in zip(rows, counts, items, strict=True))

    def _reduce(
        self, rows: torch.Tensor, num_tokens: torch.Tensor, item: Mapping[str, Any]
    ) -> torch.Tensor:
        """Merge one video; the first rank of a tensor-parallel group decides for all."""
        grid, count = self.video_grid(item), int(num_tokens)
        if count == grid.num_tokens:
            return rows
        assert self.reduction is not None
        video, newlines = rows[: grid.num_tokens], rows[grid.num_tokens :]
        similar = video[:, : self.config.get_text_config().hidden_size]
        plan = self.reduction.method(count).plan(VideoFeatures(similar, grid))
        if plan.num_out != count:
            raise ConfigError(
                f"method {self.reduction.name!r}: got {plan.num_out} tokens, expected {count}: "
                "vLLM needs methods with exact counts. Use another method."
            )
        merged = torch.cat([plan.apply(video), newlines])
        shared: torch.Tensor = get_tp_group().broadcast(self.assemble(merged, plan, item), src=0)
        return shared


class MergingMRoPE(MergingModel):
    """Mixin in front of a model in vLLM whose text has M-RoPE positions."""

    fields = ("video_grid_thw", "second_per_grid_ts")

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if self.reduction is not None:
            # vLLM's runner asks models with this attribute for positions. It is not on the class,
            # so that a server without sttm is vLLM's own.
            self.supports_multimodal_pruning = True

    def video_grid(self, item: Mapping[str, Any]) -> VideoGrid:
        """Read ``video_grid_thw``, which counts patches."""
        merge = self.config.vision_config.spatial_merge_size
        frames, height, width = map(int, item["video_grid_thw"])
        return VideoGrid(frames, height // merge, width // merge)

    def unmerged(self, item: Mapping[str, Any]) -> list[int]:
        """Return the token ids that stand for a video in the prompt if it is not merged."""
        return [self.config.video_token_id] * self.video_grid(item).num_tokens

    def arrange(
        self, rows: torch.Tensor, plan: MergePlan, item: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows that stand for a merged video, and their places in the unmerged one.

        Args:
            rows: ``(M, C)``, merged.
            plan: which tokens they are.
            item: the video's fields.
        """
        return rows, plan.anchor

    def assemble(
        self, rows: torch.Tensor, plan: MergePlan, item: Mapping[str, Any]
    ) -> torch.Tensor:
        """Append the positions of the rows as columns."""
        rows, place = self.arrange(rows, plan, item)
        return torch.cat([rows, pack(self.relative_positions(item)[:, place.cpu()], rows)], 1)

    def relative_positions(self, item: Mapping[str, Any]) -> torch.Tensor:
        """Return the positions of a video that is not merged, from its start: ``(3, L)`` int64."""
        tokens = self.unmerged(item)
        fields = {
            name: MultiModalFieldElem(value, MultiModalFieldConfig.batched("video").field)
            for name, value in item.items()
        }
        spec = MultiModalFeatureSpec(
            data=MultiModalKwargsItem(fields),
            modality="video",
            identifier="",
            mm_position=PlaceholderRange(offset=0, length=len(tokens)),
        )
        positions: torch.Tensor = super().get_mrope_input_positions(tokens, [spec])[0]  # type: ignore[misc]
        return positions

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[torch.Tensor, int]:
        """Return positions as if nothing were merged; those of merged videos come later.

        The model's own positions of the unmerged prompt, less what is not in the merged one.

        Args:
            input_tokens: the prompt.
            mm_features: its images and videos.

        Returns:
            ``(3, N)`` int64, and what to add to a place behind the prompt for its position.
        """
        features: list[Any] = []
        tokens: list[int] = []
        kept: list[int] = []
        start = 0
        for feature in sorted(mm_features, key=lambda each: each.mm_position.offset):
            offset, length = feature.mm_position.offset, feature.mm_position.length
            end, whole = offset + length, input_tokens[offset : offset + length]
            if self.reduction is not None and feature.modality == "video":
                whole = self.unmerged({name: field.data for name, field in feature.data.items()})
            kept += range(len(tokens), len(tokens) + end - start)
            tokens += input_tokens[start:offset]
            span = replace(feature.mm_position, offset=len(tokens), length=len(whole))
            features.append(replace(feature, mm_position=span))
            tokens += whole
            start = end
        kept += range(len(tokens), len(tokens) + len(input_tokens) - start)
        tokens += input_tokens[start:]
        positions, _ = super().get_mrope_input_positions(tokens, features)  # type: ignore[misc]
        positions = positions[:, kept]
        return positions, _delta(positions)

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | torch.Tensor,
        multimodal_embeddings: Sequence[torch.Tensor],
        mrope_positions: torch.Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[torch.Tensor], torch.Tensor, int]:
        """Take the positions of merged tokens off their features, and put them to their places.

        Args:
            input_ids: ``(N,)`` the whole prompt.
            multimodal_embeddings: the features of the chunk that is computed.
            mrope_positions: ``(3, N)`` int64.
            num_computed_tokens: tokens in front of the chunk.

        Returns:
            the features alone, the positions, and what to add to a place behind the prompt.
        """
        if self.reduction is None:
            arguments = (input_ids, multimodal_embeddings, mrope_positions, num_computed_tokens)
            result: tuple[Any, Any, int] = super().recompute_mrope_positions(*arguments)  # type: ignore[misc]
            return result
        width = self.config.get_text_config().hidden_size
        width *= 1 + getattr(self, "deepstack_num_level", 0)
        if any(part.shape[1] > width for part in multimodal_embeddings):
            ids = torch.as_tensor(input_ids, device=mrope_positions.device)
            media = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
            mrope_positions = place_rows(
                mrope_positions, media, multimodal_embeddings, width, num_computed_tokens
            )
        rows = [part[:, :width] for part in multimodal_embeddings]
        return rows, mrope_positions, _delta(mrope_positions)

    def get_encoder_cudagraph_config(self) -> Any:
        """Encode without CUDA graphs, which would pass `embed_multimodal` by."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return config if self.reduction is None else replace(config, modalities=[])


def _delta(positions: torch.Tensor) -> int:
    """Return what to add to a place behind the prompt; its last token is text."""
    return int(positions[0, -1]) + 1 - positions.shape[1]


def _check_engine(vllm_config: Any) -> None:
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        raise ConfigError(
            "--pipeline-parallel-size: got "
            f"{vllm_config.parallel_config.pipeline_parallel_size} with sttm, expected 1: only the "
            "first stage would know the positions. Use --tensor-parallel-size."
        )
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.use_eagle():
        raise ConfigError(
            f"--speculative-config: got {speculative.method!r} with sttm, expected no draft model "
            "that reads the video. Leave it out, or use ngram."
        )
