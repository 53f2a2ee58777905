"""Clips: shots of real videos, cut and joined, with small cut-outs that are there for short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from sttm.nano.clips import QUADRANTS
from training.real.sources import KINDS, Material, Pixels, cut_out

SIZE = 256  # side of a frame, in pixels
FRAMES = 12
MIN_SCENE = 3  # frames between two cuts
SIZES = (40, 60)  # shortest and longest longer side of a needle, in pixels; a cell has 32
LONGEST = 2  # frames that a needle is there, at most


@dataclass(frozen=True)
class Shot:
    """`FRAMES` frames of a video, through a window that may drift.

    Args:
        source: name of the video.
        indices: of the video's frames.
        boxes: left, top and side of the window in the first and the last frame; 1 is as large as
            the video's shorter side.
        flip: mirrored.
        gain: of the brightness.
    """

    source: str
    indices: tuple[int, ...]
    boxes: tuple[tuple[float, float, float], tuple[float, float, float]]
    flip: bool
    gain: float


@dataclass(frozen=True)
class Needle:
    """A cut-out, still, in frames ``start`` to ``end`` (exclusive).

    Args:
        kind: what it shows, one of `KINDS`.
        path: of the picture.
        size: its longer side, in pixels.
        x: left edge, in pixels.
        y: top edge, in pixels.
        flip: mirrored.
        start: first frame.
        end: behind the last.
    """

    kind: str
    path: Path
    size: int
    x: int
    y: int
    flip: bool
    start: int
    end: int

    @property
    def box(self) -> tuple[int, int]:
        """Width and height, in pixels."""
        width, height = cut_out(self.path).size
        scale = self.size / max(width, height)
        return max(1, round(scale * width)), max(1, round(scale * height))

    @property
    def quadrant(self) -> str:
        """Name of the corner that holds it wholly."""
        return QUADRANTS[2 * (self.y >= SIZE // 2) + (self.x >= SIZE // 2)]


@dataclass(frozen=True)
class Scene:
    """What is seen of a shot between two cuts: frames ``start`` to ``end`` of shot and clip."""

    shot: Shot
    start: int
    end: int


@dataclass(frozen=True)
class Clip:
    """A composed video.

    Args:
        scenes: one after the other.
        needles: in order of time, never two in a frame, all of different kinds.
    """

    scenes: tuple[Scene, ...]
    needles: tuple[Needle, ...]

    @property
    def frames(self) -> int:
        """How many."""
        return self.scenes[-1].end

    def needle_at(self, frame: int) -> Needle | None:
        """The needle that a frame shows."""
        return next((n for n in self.needles if n.start <= frame < n.end), None)


def random_shot(rng: np.random.Generator, material: Material) -> Shot:
    """Choose a shot of a random video."""
    names = material.backgrounds()
    source = names[int(rng.integers(len(names)))]
    frames, height, width = material.video(source).shape[:3]
    span = min(frames, int(rng.integers(FRAMES, 4 * FRAMES + 1)))
    first = int(rng.integers(frames - span + 1))
    indices = first + np.linspace(0, span - 1, FRAMES).astype(int)
    if rng.random() < 0.3:
        indices = indices[::-1]
    short = min(height, width)
    side = float(rng.uniform(0.6, 1.0))
    room = np.array([width / short - side, height / short - side])
    begin = rng.uniform(0, 1, 2) * room
    end = begin if rng.random() < 0.5 else np.clip(begin + rng.uniform(-0.15, 0.15, 2), 0, room)
    boxes = ((*begin.tolist(), side), (*end.tolist(), side))
    gain = float(rng.uniform(0.8, 1.2))
    return Shot(source, tuple(indices.tolist()), boxes, bool(rng.integers(2)), gain)


def random_runs(
    rng: np.random.Generator,
    material: Material,
    count: int,
    sizes: tuple[int, int] = SIZES,
    longest: int = LONGEST,
) -> list[list[Needle]]:
    """Choose needles for a shot: each run is one needle, or two in the same place in turn."""
    runs = []
    for _ in range(count):
        pair = rng.random() < 0.3
        lengths = rng.integers(1, longest + 1, 1 + pair).tolist()
        start = int(rng.integers(FRAMES - sum(lengths) + 1))
        kinds = rng.choice(list(KINDS), 1 + pair, replace=False).tolist()
        size = int(rng.integers(sizes[0], sizes[1] + 1))
        corner = rng.integers(2, size=2) * SIZE // 2
        x, y = (corner + rng.integers(4, SIZE // 2 - size - 3, 2)).tolist()
        run = []
        for kind, length in zip(kinds, lengths, strict=True):
            paths = material.cut_outs(kind)
            path = paths[int(rng.integers(len(paths)))]
            flip = bool(rng.integers(2))
            run.append(Needle(kind, path, size, x, y, flip, start, start + length))
            start += length
        runs.append(run)
    return runs


def compose(
    rng: np.random.Generator, shots: Sequence[Shot], runs: Sequence[Sequence[Sequence[Needle]]]
) -> tuple[Clip, list[int]]:
    """Cut and join shots, and choose needles among those of each.

    Args:
        rng: of the choice.
        shots: at least as many as scenes, i.e. 3.
        runs: for each shot.

    Returns:
        the clip, and for each scene which shot it is of.
    """
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.45, 0.2]))
    cuts = np.arange(MIN_SCENE, FRAMES - MIN_SCENE + 1)
    while True:
        chosen = sorted(rng.choice(cuts, count - 1, replace=False).tolist())
        if all(b - a >= MIN_SCENE for a, b in pairwise(chosen)):
            break
    order = rng.permutation(len(shots))[:count].tolist()
    bounds = [0, *chosen, FRAMES]
    scenes = tuple(Scene(shots[s], a, b) for s, a, b in zip(order, bounds, bounds[1:]))
    fitting = [
        run
        for number, scene in zip(order, scenes)
        for run in runs[number]
        if scene.start <= run[0].start and run[-1].end <= scene.end
    ]
    wanted = int(rng.integers(1, 5))
    needles: list[Needle] = []
    for i in rng.permutation(len(fitting)).tolist():
        run = list(fitting[i])
        if len(needles) + len(run) <= wanted and all(
            (n.end < r.start or r.end < n.start) and n.kind != r.kind for n in needles for r in run
        ):
            needles += run
    return Clip(scenes, tuple(sorted(needles, key=lambda n: n.start))), order


def render_frame(shot: Shot, frame: int, needle: Needle | None, material: Material) -> Pixels:
    """Draw one frame ``(SIZE, SIZE, 3)``."""
    image = Image.fromarray(material.video(shot.source)[shot.indices[frame]])
    short, share = min(image.size), frame / (FRAMES - 1)
    left, top, side = (short * ((1 - share) * a + share * b) for a, b in zip(*shot.boxes))
    image = image.resize(
        (SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
    )
    if shot.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(shot.gain)
    if needle is not None:
        picture = cut_out(needle.path).resize(needle.box)
        if needle.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image.paste(picture, (needle.x, needle.y), picture)
    return np.asarray(image)


def render(clip: Clip, material: Material) -> Pixels:
    """Draw a clip: ``(T, SIZE, SIZE, 3)``."""
    return np.stack(
        [
            render_frame(scene.shot, frame, clip.needle_at(frame), material)
            for scene in clip.scenes
            for frame in range(scene.start, scene.end)
        ]
    )
