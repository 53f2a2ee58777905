"""Questions about when something is to be seen."""

from sttm.nano.grounding import grounding_questions
from sttm.nano.scenes import make_scene


def test_the_answers_are_when_things_are_to_be_seen() -> None:
    asked = 0
    for seed in range(30_000_000, 30_000_030):
        clip = make_scene(seed, 16)
        for question in grounding_questions(clip, seed):
            start, end = map(int, question.answer.split("-"))
            named = [
                thing
                for thing in clip.needles
                if any(
                    f" {name} " in question.text.replace("?", " ")
                    for name in (str(thing.digit), thing.colour)
                )
            ]
            assert [(thing.start, thing.end) for thing in named] == [(start, end)]
            assert end - start < 16
            asked += 1
    assert asked > 20


def test_frames_may_stand_at_other_seconds() -> None:
    clip = make_scene(30_000_002, 6)
    plain = grounding_questions(clip, 1)
    spread = grounding_questions(clip, 1, [0, 2, 4, 6, 8, 10])
    assert [q.text for q in plain] == [q.text for q in spread]
    for one, other in zip(plain, spread, strict=True):
        first, end = map(int, one.answer.split("-"))
        assert other.answer == f"{2 * first}-{2 * end - 1}"
    assert plain


def test_the_same_seed_asks_the_same() -> None:
    clip = make_scene(30_000_002, 16)
    assert grounding_questions(clip, 5) == grounding_questions(clip, 5)
