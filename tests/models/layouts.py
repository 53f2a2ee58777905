"""Write prompts with videos as the processor of each family would: ids, pixels, grids, masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from sttm.grid import VideoGrid

from . import configs


@dataclass(frozen=True)
class Text:
    """``length`` ordinary words, drawn from ``seed``."""

    length: int
    seed: int = 0


@dataclass(frozen=True)
class Video:
    """A video of ``frames`` time steps; families with square frames ignore height and width.

    Args:
        still: this many frames, at the end, repeat the one before them.
        dropped: tokens that the processor's own compression leaves out (video_llama_3).
    """

    frames: int = 3
    seed: int = 0
    height: int = 2
    width: int = 3
    still: int = 0
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True)
class Image:
    """One image."""

    seed: int = 0


Part = Text | Video | Image
_TILES = 3
Row = tuple[Part, ...]


@dataclass(frozen=True)
class VideoPlace:
    """Where a video's tokens stand in its (padded) row, in the order t, y, x."""

    grid: VideoGrid
    index: torch.Tensor


@dataclass
class Prompt:
    """A row under construction."""

    ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)  # 0 text, 1 image, 2 video
    videos: list[tuple[VideoGrid, list[int]]] = field(default_factory=list)

    def add(self, ids: Sequence[int], kind: int = 0) -> list[int]:
        """Append tokens; returns their places."""
        start = len(self.ids)
        self.ids.extend(ids)
        self.kinds.extend([kind] * len(ids))
        return list(range(start, len(self.ids)))

    def words(self, length: int, seed: int) -> None:
        """Append ordinary words."""
        low, high = configs.TEXT.start, configs.TEXT.stop
        self.add(torch.randint(low, high, (length,), generator=_generator(seed)).tolist())


class Layout(Protocol):
    """How one family writes videos and images."""

    def video(self, prompt: Prompt, video: Video) -> None:
        """Append a video's tokens and note where they are."""
        ...

    def image(self, prompt: Prompt, image: Image) -> None:
        """Append an image's tokens."""
        ...

    def pixels(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Build the tensors that the vision tower reads, for all rows."""
        ...


def videos_of(rows: Sequence[Row]) -> list[Video]:
    """All videos in reading order."""
    return [part for row in rows for part in row if isinstance(part, Video)]


def images_of(rows: Sequence[Row]) -> list[Image]:
    """All images in reading order."""
    return [part for row in rows for part in row if isinstance(part, Image)]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


def draw_frames(video: Video, shape: Sequence[int]) -> torch.Tensor:
    """Random frames ``(frames, *shape)``, the last ``still`` of them all the same."""
    frames = torch.randn((video.frames, *shape), generator=_generator(video.seed))
    if video.still:
        frames[video.frames - video.still :] = frames[video.frames - video.still - 1]
    return frames


def draw_image(image: Image, shape: Sequence[int]) -> torch.Tensor:
    """Random pixels of one image."""
    return torch.randn(tuple(shape), generator=_generator(500 + image.seed))


@dataclass(frozen=True)
class PatchLayout:
    """Qwen-VL and its relatives: flattened patches and a grid per video.

    Args:
        per_frame: one run of tokens per frame, behind a time stamp.
        glm: video tokens are image tokens between two video marks, time stamps follow the frame.
        second_per_grid: the processor also tells the seconds per time step.
    """

    per_frame: bool = False
    glm: bool = False
    second_per_grid: bool = False

    def video(self, prompt: Prompt, video: Video) -> None:
        grid = VideoGrid(video.frames, video.height, video.width)
        token = configs.IMAGE_TOKEN if self.glm else configs.VIDEO_TOKEN
        places: list[int] = []
        if self.per_frame:
            prompt.add([configs.BEGIN_VIDEO if self.glm else configs.VISION_START])
        runs = grid.frames if self.per_frame else 1
        for run in range(runs):
            if self.per_frame and not self.glm:
                prompt.words(3, seed=7000 + run)
            prompt.add([configs.VISION_START])
            places += prompt.add([token] * (grid.num_tokens // runs), kind=2)
            prompt.add([configs.VISION_END])
            if self.glm:
                prompt.words(1, seed=7000 + run)
        if self.per_frame:
            prompt.add([configs.END_VIDEO if self.glm else configs.VISION_END])
        prompt.videos.append((grid, places))

    def image(self, prompt: Prompt, image: Image) -> None:
        prompt.add([configs.VISION_START])
        prompt.add([configs.IMAGE_TOKEN] * 4, kind=1)
        prompt.add([configs.VISION_END])

    def pixels(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        values = 3 * 2 * configs.PATCH**2  # channels x temporal patch x patch
        out: dict[str, torch.Tensor] = {}
        if videos := videos_of(rows):
            patches = [draw_frames(v, (4 * v.height * v.width, values)) for v in videos]
            out["pixel_values_videos"] = torch.cat([p.flatten(0, 1) for p in patches])
            grids = [(v.frames, 2 * v.height, 2 * v.width) for v in videos]
            out["video_grid_thw"] = torch.tensor(grids)
            if self.second_per_grid:
                out["second_per_grid_ts"] = torch.ones(len(videos))
        if images := images_of(rows):
            out["pixel_values"] = torch.cat([draw_image(i, (16, values)) for i in images])
            out["image_grid_thw"] = torch.tensor([(1, 4, 4)] * len(images))
        return out


@dataclass(frozen=True)
class LlavaLayout:
    """LLaVA: square frames of a fixed size, all videos of a batch equally long.

    Args:
        image_size: pixels per side.
        side: tokens per side of a frame.
        newline: one more video token stands behind a video.
    """

    image_size: int
    side: int
    newline: bool

    def video(self, prompt: Prompt, video: Video) -> None:
        grid = VideoGrid(video.frames, self.side, self.side)
        places = prompt.add([configs.VIDEO_TOKEN] * grid.num_tokens, kind=2)
        if self.newline:
            prompt.add([configs.VIDEO_TOKEN], kind=2)
        prompt.videos.append((grid, places))

    def image(self, prompt: Prompt, image: Image) -> None:
        patches = self.image_size // configs.PATCH
        tokens = patches * patches + patches * (patches + 1)  # overview, then rows with newlines
        prompt.add([configs.IMAGE_TOKEN] * tokens, kind=1)

    def pixels(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        shape = (3, self.image_size, self.image_size)
        out: dict[str, torch.Tensor] = {}
        if videos := videos_of(rows):
            out["pixel_values_videos"] = torch.stack([draw_frames(v, shape) for v in videos])
        if images := images_of(rows):
            out["pixel_values"] = torch.stack([draw_image(i, (2, *shape)) for i in images])
            out["image_sizes"] = torch.tensor([(self.image_size, self.image_size)] * len(images))
        return out


@dataclass(frozen=True)
class FramesLayout:
    """InternVL and SmolVLM: a video is a row of images.

    Args:
        image_size: pixels per side.
        side: tokens per side of a frame.
        before: words in front of every frame.
        smol: as SmolVLM does it: tiles of an image stand apart, each behind its name, and pixels
            come as ``(rows, frames, ...)``, padded with empty frames.
    """

    image_size: int
    side: int
    before: int
    smol: bool

    @property
    def _end(self) -> int:
        return configs.VISION_START if self.smol else configs.VISION_END

    def video(self, prompt: Prompt, video: Video) -> None:
        grid = VideoGrid(video.frames, self.side, self.side)
        places: list[int] = []
        for frame in range(grid.frames):
            prompt.words(self.before, seed=7000 + frame)
            prompt.add([configs.VISION_START])
            if self.smol:
                prompt.add([configs.GLOBAL_IMAGE])
            places += prompt.add([configs.IMAGE_TOKEN] * grid.tokens_per_frame, kind=2)
            prompt.add([self._end])
        prompt.videos.append((grid, places))

    def image(self, prompt: Prompt, image: Image) -> None:
        tokens = self.side**2
        if self.smol:
            for tile in (*configs.TILES, configs.GLOBAL_IMAGE):
                prompt.add([configs.VISION_START, tile])
                prompt.add([configs.IMAGE_TOKEN] * tokens, kind=1)
        else:
            prompt.add([configs.VISION_START])
            prompt.add([configs.IMAGE_TOKEN] * (_TILES * tokens), kind=1)
        prompt.add([self._end])

    def pixels(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        shape = (3, self.image_size, self.image_size)
        by_row = [
            [
                draw_frames(part, shape)
                if isinstance(part, Video)
                else draw_image(part, (_TILES, *shape))
                for part in row
                if not isinstance(part, Text)
            ]
            for row in rows
        ]
        frames = [torch.cat(parts) if parts else torch.zeros(0, *shape) for parts in by_row]
        if not any(len(f) for f in frames):
            return {}
        if not self.smol:
            return {"pixel_values": torch.cat(frames)}
        padded = torch.zeros(len(rows), max(len(f) for f in frames), *shape)
        for row, f in enumerate(frames):
            padded[row, : len(f)] = f
        return {"pixel_values": padded}


@dataclass(frozen=True)
class CompressedLayout:
    """VideoLLaMA 3: time stamps between frames, some tokens already left out by the processor."""

    def video(self, prompt: Prompt, video: Video) -> None:
        grid = VideoGrid(video.frames, video.height, video.width)
        places: list[int] = []
        for frame in range(grid.frames):
            prompt.words(3, seed=7000 + frame)
            first = frame * grid.tokens_per_frame
            kept = [
                i for i in range(first, first + grid.tokens_per_frame) if i not in video.dropped
            ]
            places += prompt.add([configs.VIDEO_TOKEN] * len(kept), kind=2)
        prompt.videos.append((grid, places))

    def image(self, prompt: Prompt, image: Image) -> None:
        prompt.add([configs.IMAGE_TOKEN] * 4, kind=1)

    def pixels(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        values = 3 * configs.PATCH**2
        out: dict[str, torch.Tensor] = {}
        if videos := videos_of(rows):
            patches = [draw_frames(v, (4 * v.height * v.width, values)) for v in videos]
            out["pixel_values_videos"] = torch.cat([p.flatten(0, 1) for p in patches])
            grids = [(v.frames, 2 * v.height, 2 * v.width) for v in videos]
            out["video_grid_thw"] = torch.tensor(grids)
            out["video_merge_sizes"] = torch.full((len(videos),), 2)
            kept = [
                [i not in v.dropped for i in range(v.frames * v.height * v.width)] for v in videos
            ]
            out["video_compression_mask"] = torch.tensor([k for one in kept for k in one])
        if images := images_of(rows):
            out["pixel_values"] = torch.cat([draw_image(i, (16, values)) for i in images])
            out["image_grid_thw"] = torch.tensor([(1, 4, 4)] * len(images))
            out["image_merge_sizes"] = torch.full((len(images),), 2)
        return out
