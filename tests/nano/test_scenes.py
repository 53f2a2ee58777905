from __future__ import annotations

import collections
import hashlib
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.nano.backdrop import BACKDROP_COLOURS, DIRECTIONS, PATTERNS, Backdrop, Landmark
from sttm.nano.clips import COLOUR_NAMES, QUADRANTS, Clip, Needle
from sttm.nano.glyphs import glyph_width
from sttm.nano.palette import COLOURS
from sttm.nano.questions import SCENE_TASKS, TASKS, Question, scene_questions
from sttm.nano.scenes import SCENE_KINDS, make_scene, relation

SIDES = ("left", "right", "above", "below")


def digest(clip: Clip) -> str:
    facts = (clip.kind, clip.needles, clip.backdrops, clip.landmarks, clip.distractors, clip.noise)
    return hashlib.sha256(clip.frames.tobytes() + repr(facts).encode()).hexdigest()[:16]


# As for ``make_clip``: another hash here means that every accuracy on scenes must be measured anew.
PINNED: dict[tuple[int, int, str | None], str] = {
    (0, 1, None): "27a9240572c74d91",
    (1, 16, "static"): "f45427a78ea120c8",
    (2, 16, "pan"): "14f385b026b14efb",
    (3, 16, "texture"): "3b77fc6783924c07",
    (4, 16, "cut"): "274917c40e168452",
    (50_000_000, 32, None): "c596c92bbfd28b0d",
}


@pytest.mark.parametrize(("seed", "frames", "kind"), list(PINNED))
def test_bytes_of_a_seed_are_pinned(seed: int, frames: int, kind: str | None) -> None:
    assert digest(make_scene(seed, frames, kind=kind)) == PINNED[seed, frames, kind]


def test_same_arguments_same_scene_and_other_seed_other_scene() -> None:
    assert digest(make_scene(5, 4)) == digest(make_scene(5, 4))
    assert digest(make_scene(5, 4)) != digest(make_scene(6, 4))


scenes = st.builds(
    make_scene,
    st.integers(0, 2**40),
    st.sampled_from([1, 2, 3, 8, 17]),
    kind=st.sampled_from([None, *SCENE_KINDS]),
)


@settings(max_examples=60, deadline=None)
@given(clip=scenes)
def test_what_a_scene_says_about_itself_is_in_range(clip: Clip) -> None:
    frames = len(clip.frames)
    assert clip.frames.shape == (frames, 128, 128, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.kind in SCENE_KINDS
    assert [b.start for b in clip.backdrops] == [0, *clip.cuts]
    assert clip.backdrops[-1].end == frames
    assert all(b.length > 0 for b in clip.backdrops)
    assert len({b.colour for b in clip.backdrops}) == len(clip.backdrops)
    assert len({b.pattern for b in clip.backdrops}) == len(clip.backdrops)
    assert (len(clip.backdrops) > 1) is (clip.kind == "cut" and frames > 1)
    assert clip.kind != "texture" or clip.backdrops[0].pattern != "plain"
    assert {lm.start for lm in clip.landmarks} <= {b.start for b in clip.backdrops}


@settings(max_examples=60, deadline=None)
@given(clip=scenes)
def test_needles_lie_in_one_quadrant_and_differ(clip: Clip) -> None:
    assert 1 <= len(clip.needles) <= 3
    assert len({n.digit for n in clip.needles}) == len(clip.needles)
    assert len({n.colour for n in clip.needles}) == len(clip.needles)
    assert [n.start for n in clip.needles] == sorted(n.start for n in clip.needles)
    for n in clip.needles:
        assert 0 <= n.start < n.end <= len(clip.frames)
        assert (n.size > 28) <= (n.length <= 2), "only brief needles are large"
        left, right = n.x // 64, (n.x + glyph_width(n.size) - 1) // 64
        top, bottom = n.y // 64, (n.y + n.size - 1) // 64
        assert (left, top) == (right, bottom), "the glyph crosses the middle"
        assert n.quadrant == QUADRANTS[2 * top + left]
    shown = [(t, n.quadrant) for n in clip.needles for t in range(n.start, n.end)]
    assert len(shown) == len(set(shown)), "two needles in one quadrant of one frame"


@settings(max_examples=60, deadline=None)
@given(clip=scenes)
def test_a_still_landmark_is_clear_of_the_needles(clip: Clip) -> None:
    for backdrop, landmark in pairs(clip):
        if backdrop.travel:
            continue
        for n in clip.needles:
            if n.start < backdrop.end and backdrop.start < n.end:
                apart_x = (
                    n.x >= landmark.x + landmark.size or n.x + glyph_width(n.size) <= landmark.x
                )
                apart_y = n.y >= landmark.y + landmark.size or n.y + n.size <= landmark.y
                assert apart_x or apart_y


def pairs(clip: Clip) -> list[tuple[Backdrop, Landmark]]:
    homes = {b.start: b for b in clip.backdrops}
    return [(homes[lm.start], lm) for lm in clip.landmarks]


def literal_answers(question: Question, clip: Clip) -> set[str]:
    """Every answer a reader of the clip's facts could give to a question about the scene."""
    words = re.findall(r"\w+", question.text)
    if question.task in ("background", "texture"):
        parts = clip.backdrops
        if "start" in words:
            parts = parts[:1]
        if "end" in words:
            parts = parts[-1:]
        return {b.colour if question.task == "background" else b.pattern for b in parts}
    if question.task == "pan":
        return {b.direction for b in clip.backdrops}
    sides = set()
    for n in clip.needles:
        if str(n.digit) not in words and n.colour not in words:
            continue
        for t in range(n.start, n.end):
            for backdrop, landmark in pairs(clip):
                if not backdrop.start <= t < backdrop.end:
                    continue
                dx, dy = backdrop.camera(t)
                across = n.x + glyph_width(n.size) / 2 - (landmark.x - dx + landmark.size / 2)
                along = n.y + n.size / 2 - (landmark.y - dy + landmark.size / 2)
                if abs(across) > abs(along):
                    sides.add("right" if across > 0 else "left")
                else:
                    sides.add("below" if along > 0 else "above")
    return sides


@settings(max_examples=120, deadline=None)
@given(clip=scenes, seed=st.integers(0, 2**31))
def test_every_question_about_the_scene_has_exactly_the_given_answer(clip: Clip, seed: int) -> None:
    for question in scene_questions(clip, seed):
        if question.task not in TASKS:
            assert literal_answers(question, clip) == {question.answer}, question


def test_all_tasks_and_answers_come_up_about_equally_often() -> None:
    tally: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for seed in range(300):
        for q in scene_questions(make_scene(seed, 8), seed):
            tally[q.task][q.answer] += 1
    assert set(tally) == set(SCENE_TASKS)
    expected = {
        "background": BACKDROP_COLOURS,
        "texture": PATTERNS,
        "pan": DIRECTIONS,
        "relation": SIDES,
        "quadrant": QUADRANTS,
        "colour": COLOUR_NAMES,
        "digit": map(str, range(10)),
        "count": ("1", "2", "3"),
    }
    for task, answers in expected.items():
        counts = tally[task]
        assert set(counts) == set(answers)
        assert max(counts.values()) < 2.2 * min(counts.values()), (task, counts)


def test_needles_come_in_every_tempo_and_size() -> None:
    needles = [n for s in range(150) for n in make_scene(s, 16).needles]
    assert sum(n.length == 16 for n in needles) > 50, "small and still from start to end"
    assert sum(n.length <= 2 and n.size > 28 for n in needles) > 20, "large and brief"
    assert sum(n.length <= 2 and n.size <= 28 for n in needles) > 20, "small and brief"
    assert sum(2 < n.length < 16 for n in needles) > 50


def test_backgrounds_are_far_from_needle_colours() -> None:
    for clip in (make_scene(s, 4) for s in range(40)):
        for n in clip.needles:
            ink = np.array(COLOURS[n.colour], dtype=int)
            for b in clip.backdrops:
                ground = np.array(BACKDROP_COLOURS[b.colour], dtype=int)
                assert np.abs(ink - ground).max() >= 70


def test_the_camera_moves_the_world_and_leaves_needles_alone() -> None:
    for clip in (make_scene(s, 9, kind="pan") for s in range(40)):
        (backdrop,) = clip.backdrops
        dx, dy = backdrop.camera(8)
        signs = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
        assert (np.sign(dx), np.sign(dy)) == signs[backdrop.direction]
        assert 40 <= abs(dx + dy) <= 64
    still = [make_scene(s, 9, kind="static") for s in range(60)]
    quiet = [c for c in still if not c.noise and not c.distractors]
    whole = [c for c in quiet if all(n.length == 9 for n in c.needles)]
    assert whole
    assert all(np.array_equal(c.frames[0], c.frames[-1]) for c in whole)


@pytest.mark.parametrize(
    ("x", "y", "side"),
    [(2, 50, "left"), (100, 50, "right"), (50, 2, "above"), (50, 100, "below"), (5, 5, None)],
)
def test_relation(x: int, y: int, side: str | None) -> None:
    landmark = Landmark("disk", 0, 4, 44, 44, 40)
    assert relation(Needle(3, "red", 0, 4, x, y, 28), landmark) == side


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_the_pan_is_asked_once_and_only_where_there_is_one(kind: str) -> None:
    clip = make_scene(1, 8, kind=kind)
    asked = [q.answer for q in scene_questions(clip, 3) if q.task == "pan"]
    assert asked == ([clip.backdrops[0].direction] if kind == "pan" else [])


def test_the_same_seed_asks_the_same() -> None:
    clip = make_scene(1, 8)
    assert scene_questions(clip, 3) == scene_questions(clip, 3)
    assert scene_questions(clip, 3) != scene_questions(clip, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": -1, "frames": 4}, "seed=-1"),
        ({"seed": 0, "frames": 0}, "frames=0"),
        ({"seed": 0, "frames": 4, "kind": "zoom"}, "kind='zoom'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_scene(**arguments)
