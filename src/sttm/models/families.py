"""The families: one class of facts each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any, ClassVar

import torch
from transformers.vision_utils import get_vision_window_index

from sttm.errors import UnsupportedModelError
from sttm.grid import VideoGrid
from sttm.models.adapter import (
    Adapter,
    Step,
    VideoLayout,
    VideoSpan,
    count_copies,
    merged_grids,
)
from sttm.models.attention_scores import Tower, received_in_chunks, received_in_frames
from sttm.models.frames import frame_series
from sttm.models.newlines import newline_marks
from sttm.models.transformers_api import PIXELS, POOLED, VIDEO_GRID


class GridTHW(Adapter):
    """Families that are told their patch grids in ``video_grid_thw``; M-RoPE."""

    encoder_arguments: ClassVar[tuple[str, ...]] = (VIDEO_GRID,)

    def encoded(self, arguments: Mapping[str, Any], output: Any) -> list[VideoLayout]:
        """Read the grids from ``video_grid_thw``."""
        merge = self.config.vision_config.spatial_merge_size
        return [VideoLayout(grid) for grid in merged_grids(arguments[VIDEO_GRID], merge)]

    def split_steps(self, arguments: Mapping[str, Any]) -> list[Step] | None:
        """Cut the rows of pixels; each time step becomes a video of its own."""
        pixels, names = arguments[self.pixels], self.encoder_arguments
        counts = [t for t, _, _ in arguments[VIDEO_GRID].tolist()]
        video = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).tolist()
        grids = arguments[VIDEO_GRID].clone()
        grids[:, 0] = 1
        own = {**{name: arguments[name] for name in names if name in arguments}, VIDEO_GRID: grids}
        rows = pixels.split([int(grids[index].prod()) for index in video])
        return [
            {self.pixels: part, **{name: value[index : index + 1] for name, value in own.items()}}
            for part, index in zip(rows, video)
        ]

    def join_steps(self, arguments: Mapping[str, Any], steps: Sequence[torch.Tensor]) -> Any:
        """Return the features of each video."""
        rest = iter(steps)
        counts = [t for t, _, _ in arguments[VIDEO_GRID].tolist()]
        return tuple(torch.cat(list(islice(rest, count))) for count in counts)

    def step_patches(self, step: Step) -> torch.Tensor:
        """Return the pixels as they are: a row is a patch."""
        return step[self.pixels]


class QwenTower(GridTHW):
    """Qwen's vision towers: packed chunks, ``merge * merge`` patches in a row make one token."""

    def tower(self) -> Tower:
        """Read the last block; its patches are averaged like the merger joins them."""
        attention = self.base.visual.blocks[-1].attn
        return Tower(attention, partial(received_in_chunks, attention), self._pool)

    def _pool(self, patches: torch.Tensor, arguments: Mapping[str, Any]) -> torch.Tensor:
        tokens = patches.view(-1, self.base.visual.spatial_merge_size**2).mean(1)
        order = self.tower_order(arguments[VIDEO_GRID])
        return tokens if order is None else tokens[order.argsort().to(tokens.device)]

    def tower_order(self, grids: torch.Tensor) -> torch.Tensor | None:
        """Return the tokens in the order in which the tower has them; None: as they are."""
        return None

    def tower_layers(self) -> Sequence[torch.nn.Module]:
        """Return the blocks."""
        blocks: Sequence[torch.nn.Module] = self.base.visual.blocks
        return blocks

    def step_order(self, step: Step) -> torch.Tensor | None:
        """Return the patches in the tower's order; those of a token stay side by side."""
        order = self.tower_order(step[VIDEO_GRID])
        if order is None:
            return None
        size = self.base.visual.spatial_merge_size**2
        inside = torch.arange(size, device=order.device)
        patches: torch.Tensor = (order[:, None] * size + inside).flatten()
        return patches


class Qwen2VL(QwenTower):
    """Qwen2-VL and Qwen2.5-VL: one run of ``T*h*w`` placeholders."""

    family = "Qwen2-VL, Qwen2.5-VL"
    model_types = ("qwen2_vl", "qwen2_5_vl")
    checkpoints = ("Qwen/Qwen2-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct")

    def tower_order(self, grids: torch.Tensor) -> torch.Tensor | None:
        """Qwen2.5-VL has the tokens of a window side by side."""
        tower = self.base.visual
        if not hasattr(tower, "window_size"):
            return None
        sizes = (tower.spatial_merge_size, tower.window_size, tower.patch_size)
        order: torch.Tensor = get_vision_window_index(grids, *sizes)[0]
        return order


class Qwen3VL(QwenTower):
    """Qwen3-VL: a run per frame with a timestamp before it, and DeepStack."""

    family = "Qwen3-VL"
    model_types = ("qwen3_vl", "qwen3_vl_moe")
    checkpoints = ("Qwen/Qwen3-VL-8B-Instruct",)
    deepstack = True


class Qwen35(QwenTower):
    """Qwen3.5: a run per frame with a timestamp before it; linear attention in most layers."""

    family = "Qwen3.5"
    model_types = ("qwen3_5", "qwen3_5_moe")
    checkpoints = ("Qwen/Qwen3.5-27B",)


class Glm4v(GridTHW):
    """GLM-4.1V and later: frames use the image placeholder between begin and end of video."""

    family = "GLM-4V"
    model_types = ("glm4v", "glm4v_moe")
    checkpoints = ("zai-org/GLM-4.1V-9B-Thinking",)

    def placeholders(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Mark the image placeholders inside a video."""
        begins = (input_ids == self.config.video_start_token_id).cumsum(-1)
        ends = (input_ids == self.config.video_end_token_id).cumsum(-1)
        return torch.eq(input_ids, self.config.image_token_id).logical_and(begins > ends)


class VideoLlama3(GridTHW):
    """Video-LLaMA 3: ``Time t:`` and a run per frame; the model drops tokens that repeat."""

    family = "Video-LLaMA 3"
    model_types = ("video_llama_3",)
    positions = "reassigned"
    encoder_arguments = (VIDEO_GRID, "video_merge_sizes")
    not_streamable = "it drops tokens that repeat those of the frame before"
    checkpoints = ("lkhl/VideoLLaMA3-7B-Image-HF",)

    def encoded(self, arguments: Mapping[str, Any], output: Any) -> list[VideoLayout]:
        """Read the grids from ``video_grid_thw`` and each video's own merge size."""
        grids = merged_grids(arguments[VIDEO_GRID], arguments["video_merge_sizes"])
        return [VideoLayout(grid) for grid in grids]

    def spans(
        self,
        input_ids: torch.Tensor,
        videos: Sequence[VideoLayout],
        arguments: Mapping[str, Any],
    ) -> list[list[VideoSpan]]:
        """Find the videos, less the tokens that the model's own compression dropped."""
        mask = arguments.get("video_compression_mask")  # optional: nothing was dropped
        if mask is not None:
            sizes = [video.grid.num_tokens for video in videos]
            parts = mask.cpu().bool().flatten()[: sum(sizes)].split(sizes)
            videos = [replace(video, present=part) for video, part in zip(videos, parts)]
        return super().spans(input_ids, videos, arguments)


class SquareFrames(Adapter):
    """LLaVA: square frames whose size the configuration fixes."""

    positions = "reassigned"

    def encoded(self, arguments: Mapping[str, Any], output: Any) -> list[VideoLayout]:
        """Read the frame count from the pixels and the side from the configuration."""
        videos, frames = arguments[PIXELS["video"]].shape[:2]
        grid = VideoGrid(frames, *self.frame_size())
        return [VideoLayout(grid, num_newlines=self.newlines(grid))] * videos

    def split_steps(self, arguments: Mapping[str, Any]) -> list[Step] | None:
        """Cut out the frames; each becomes a video of its own."""
        frames = arguments[self.pixels].flatten(0, 1)
        return [{self.pixels: frame[None]} for frame in frames.split(1)]

    def join_steps(self, arguments: Mapping[str, Any], steps: Sequence[torch.Tensor]) -> Any:
        """Return ``(videos, n, C)``."""
        count = arguments[self.pixels].shape[1]
        starts = range(0, len(steps), count)
        videos = [self.join_frames(steps[start : start + count]) for start in starts]
        return videos[0][None] if len(videos) == 1 else torch.stack(videos)  # no copy of a long one

    def join_frames(self, frames: Sequence[torch.Tensor]) -> torch.Tensor:
        """Put the features of one video's frames together."""
        return torch.cat(list(frames))

    def step_patches(self, step: Step) -> torch.Tensor:
        """Cut the frame into patches; what is left over at its edges no patch sees."""
        size = self.config.vision_config.patch_size
        return cut_patches(step[self.pixels][0], size)

    def tower_layers(self) -> Sequence[torch.nn.Module]:
        """Return the encoder's layers."""
        layers: Sequence[torch.nn.Module] = self.base.vision_tower.encoder.layers
        return layers

    def frame_size(self) -> tuple[int, int]:
        """Rows and columns of one frame after pooling."""
        raise NotImplementedError

    def tower(self) -> Tower:
        """Read the layer whose output is used; pool like the features."""
        layers, used = self.base.vision_tower.encoder.layers, self.config.vision_feature_layer
        outputs = len(layers) + 1
        last = max(i % outputs for i in ([used] if isinstance(used, int) else used))
        attention = layers[max(last - 1, 0)].self_attn
        missing = [
            n for n in ("q_proj", "k_proj", "scale", "head_dim") if not hasattr(attention, n)
        ]
        if missing:
            raise UnsupportedModelError(
                f"got {type(self.base.vision_tower).__name__}, whose attention has no "
                f"{', '.join(missing)}, expected a SigLIP or CLIP tower. Use a method without "
                "tower_attention."
            )
        class_token = self.config.vision_feature_select_strategy == "default"

        def measure(hidden: torch.Tensor, call: Mapping[str, Any]) -> torch.Tensor:
            return received_in_frames(attention, hidden, class_token)

        return Tower(attention, measure, partial(self._pool, self.pooling()))

    def _pool(
        self, pooling: Any, patches: torch.Tensor, arguments: Mapping[str, Any]
    ) -> torch.Tensor:
        pooled: torch.Tensor = pooling(patches[..., None])
        return pooled.flatten()

    def pooling(self) -> Any:
        """Return the model's own pooling of a frame: ``(frames, patches, C)`` to fewer patches."""
        raise NotImplementedError


class LlavaOnevision(SquareFrames):
    """LLaVA-OneVision: one newline token behind the video; LLaVA-Video: as it is configured."""

    family = "LLaVA-OneVision, LLaVA-Video"
    model_types = ("llava_onevision",)
    checkpoints = ("llava-hf/llava-onevision-qwen2-7b-ov-hf", "lmms-lab/LLaVA-Video-7B-Qwen2")

    @property
    def newline(self) -> str:
        """Where newline tokens stand; transformers' own class knows one way only."""
        mode: str = getattr(self.base, "newline", "one_token")
        return mode

    def newlines(self, grid: VideoGrid) -> int:
        """Count the newline tokens of a video."""
        return int(newline_marks(self.newline, grid).sum())

    def join_frames(self, frames: Sequence[torch.Tensor]) -> torch.Tensor:
        """Put the features of one video's frames together; one newline stands behind them all."""
        if self.newline != "one_token":
            return super().join_frames(frames)
        return torch.cat([*(frame[:-1] for frame in frames), frames[-1][-1:]])

    def spans(
        self,
        input_ids: torch.Tensor,
        videos: Sequence[VideoLayout],
        arguments: Mapping[str, Any],
    ) -> list[list[VideoSpan]]:
        """Find the videos; newline tokens between their frames or rows are none of theirs."""
        rows = super().spans(input_ids, videos, arguments)
        if self.newline in ("no_token", "one_token"):
            return rows
        found: list[list[VideoSpan]] = []
        for row, before in zip(rows, [None, *rows]):
            found.append(found[-1] if row is before else [self._between(span) for span in row])
        return found

    def _between(self, span: VideoSpan) -> VideoSpan:
        tokens = newline_marks(self.newline, span.video.grid).logical_not().nonzero().squeeze(1)
        return replace(span, index=span.index[0] + tokens)

    def frame_size(self) -> tuple[int, int]:
        """Rows and columns of one frame after pooling."""
        side = pooled_side(self.config.vision_config)
        return side, side

    def pooling(self) -> Any:
        """Return the model's own pooling: bilinear, to half the size."""
        return self.base.apply_pooling


class LlavaNextVideo(SquareFrames):
    """LLaVA-NeXT-Video: frames pooled with a stride, no newline."""

    family = "LLaVA-NeXT-Video"
    model_types = ("llava_next_video",)
    checkpoints = ("llava-hf/LLaVA-NeXT-Video-7B-hf",)

    def frame_size(self) -> tuple[int, int]:
        """Rows and columns of one frame after pooling."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size // self.config.spatial_pool_stride
        return side, side

    def pooling(self) -> Any:
        """Return the model's own pooling, with a stride.

        Raises:
            UnsupportedModelError: it is a convolution, which has no meaning for attention.
        """
        mode = self.config.spatial_pool_mode
        if mode not in ("average", "max"):
            raise UnsupportedModelError(
                f"got spatial_pool_mode={mode!r}, expected 'average' or 'max' for a method that "
                "reads the vision tower's attention. Use another method."
            )
        return self.base.vision_resampler


class ImageSeries(Adapter):
    """Families that see a video as a series of images: found by its runs of image tokens."""

    positions = "reassigned"
    modality = "image"

    def encoded(self, arguments: Mapping[str, Any], output: Any) -> list[VideoLayout]:
        """Count the frames and images; the sequence itself shows which is which."""
        tokens = sum(part.shape[:-1].numel() for part in output[POOLED])
        return [VideoLayout(VideoGrid(tokens // self.side() ** 2, self.side(), self.side()))]

    def placeholders(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Mark the places of image features."""
        return torch.eq(input_ids, self.config.image_token_id)

    def spans(
        self,
        input_ids: torch.Tensor,
        videos: Sequence[VideoLayout],
        arguments: Mapping[str, Any],
    ) -> list[list[VideoSpan]]:
        """Join runs of one frame each, close to one another, to videos; see ``frame_series``."""
        mask = self.placeholders(input_ids)
        copies = count_copies(mask, videos) if videos else 1
        rows: list[list[VideoSpan]] = []
        for row in range(len(input_ids)):
            rows.append(rows[-1] if row % copies else self._series(input_ids[row], mask[row]))
        return rows

    def _series(self, input_ids: torch.Tensor, mask: torch.Tensor) -> list[VideoSpan]:
        side = self.side()
        return [
            VideoSpan(index, VideoLayout(VideoGrid(len(index) // side**2, side, side)))
            for index in frame_series(input_ids, mask, side**2)
        ]

    def side(self) -> int:
        """Rows (and columns) of one frame."""
        raise NotImplementedError


class InternVL(ImageSeries):
    """InternVL 2.5 to 3.5 in transformers' own format: ``FrameI: <img> tokens </img>``."""

    family = "InternVL"
    model_types = ("internvl",)
    checkpoints = ("OpenGVLab/InternVL3-8B-hf",)

    def split_steps(self, arguments: Mapping[str, Any]) -> list[Step] | None:
        """Take each image by itself."""
        return [{self.pixels: image} for image in arguments[self.pixels].split(1)]

    def join_steps(self, arguments: Mapping[str, Any], steps: Sequence[torch.Tensor]) -> Any:
        """Return ``(images, n, C)``."""
        return torch.stack(list(steps))

    def step_patches(self, step: Step) -> torch.Tensor:
        """Cut the image into patches."""
        return cut_patches(step[self.pixels], self.config.vision_config.patch_size)

    def side(self) -> int:
        """Rows of one tile after pixel shuffle."""
        vision = self.config.vision_config
        patches = vision.image_size[0] // vision.patch_size[0]
        return int(patches * self.config.downsample_ratio)


class SmolVLM(ImageSeries):
    """SmolVLM 2: a timestamp and a run of image tokens per frame."""

    family = "SmolVLM"
    model_types = ("smolvlm",)
    not_streamable = "the text in front of its video tells how long it is"
    checkpoints = ("HuggingFaceTB/SmolVLM2-2.2B-Instruct",)

    def library_fault(self) -> str:
        """Tell of two releases that cut a frame's features into pieces of ``patch_size``."""
        tokens, patch = self.side() ** 2, self.config.vision_config.patch_size
        if version("transformers") in ("5.20.1", "5.20.2") and tokens % patch:
            return f"it cuts the {tokens} tokens of a frame into pieces of {patch}"
        return ""

    def side(self) -> int:
        """Rows of one frame after pixel shuffle."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size // self.config.scale_factor)


def cut_patches(image: torch.Tensor, size: int | Sequence[int]) -> torch.Tensor:
    """Cut an image ``(1, 3, H, W)`` into patches ``(patches, values)`` float32."""
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    patches: torch.Tensor = torch.nn.functional.unfold(image.float(), sizes, stride=sizes)[0].T
    return patches


def pooled_side(vision: Any) -> int:
    """Count the rows, and the columns, of tokens in a LLaVA frame pooled to half, rounded up.

    Args:
        vision: configuration of the vision tower, whose frames are square.
    """
    patches: int = vision.image_size // vision.patch_size
    return -(-patches // 2)
