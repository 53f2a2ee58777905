"""Clips for people who have no video at hand: nano's own, which are all that it knows."""

import functools
import io
from typing import Any

from sttm.nano import Clip, make_clip, make_questions, write_clip
from sttm.server.errors import ApiError

# Clips from 40,000,000 on are in no training of nano.
_SEEDS = {f"clip-{place}.mp4": 40_000_000 + seed for place, seed in enumerate((0, 1, 2, 3), 1)}
_FRAMES = 32


def list_samples() -> list[dict[str, Any]]:
    """List the names of all samples, each with questions and what is true."""
    return [
        {"name": name, "questions": [{"text": q.text, "answer": q.answer} for q in questions(name)]}
        for name in _SEEDS
    ]


def questions(name: str) -> list[Any]:
    """Return questions of different kinds about a sample."""
    clip = _clip(name)
    by_task = {question.task: question for question in make_questions(clip, clip.seed)}
    return list(by_task.values())


@functools.cache
def sample_file(name: str) -> bytes:
    """Return a sample as MP4.

    Raises:
        ApiError: there is none of this name.
    """
    if name not in _SEEDS:
        raise ApiError(404, f"got no sample, expected one of: {', '.join(_SEEDS)}.", "not_found")
    file = io.BytesIO()
    write_clip(_clip(name), file)
    return file.getvalue()


@functools.cache
def _clip(name: str) -> Clip:
    return make_clip(_SEEDS[name], _FRAMES)
