from typing import Any, ClassVar

import pytest

import sttm
from sttm.chat import VideoChat
from sttm.evaluation.runner import Runner, ask_together
from sttm.evaluation.specs import ALL_TOKENS, Setting, make_settings
from sttm.methods import Method, Signal, VideoFeatures
from tests.chat.tiny import FAMILIES, bundle, clip

QUESTIONS = ["Why?", "Which digit is it that appears?", "Where?", "How many there are, say!"]
NEW = 5


class Aware(Method):
    """A query-aware method that keeps every other token."""

    name = "aware"
    query_aware = True

    def plan(self, video: VideoFeatures) -> sttm.MergePlan:
        return sttm.get_method("random", keep=0.5, seed=1).plan(video)


class Unaware(Aware):
    query_aware = False


class Watching(Unaware):
    """Wants to know what the tower attends to."""

    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})

    def plan(self, video: VideoFeatures) -> sttm.MergePlan:
        assert video.attention("tower_attention").shape == (video.grid.num_tokens,)
        return super().plan(video)


def runner(family: str, *settings: Setting) -> Runner:
    tiny = bundle(family)
    return Runner(tiny.model, tiny.processor, settings, layer=1, max_new_tokens=NEW)


def setting(method: Any) -> Setting:
    return Setting(method.name, 0.5, method, method.name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [None, sttm.STTM(keep=0.4), sttm.STTM()])
def test_together_is_one_by_one(family: str, method: sttm.Method | None) -> None:
    tiny = bundle(family)
    layer = None if method is None else 1
    watched = VideoChat(tiny.model, tiny.processor, method, layer=layer).watch(clip())
    alone = [watched.ask(question, max_new_tokens=NEW).text for question in QUESTIONS]
    assert ask_together(watched, QUESTIONS, max_new_tokens=NEW) == alone
    # The prefill is not changed by it.
    assert watched.ask(QUESTIONS[0], max_new_tokens=NEW).text == alone[0]


def test_one_encoding_serves_every_setting() -> None:
    settings = make_settings(["sttm", "random"], [1.0, 0.5, 10])
    many = runner("llava_onevision", *settings)
    encoded = many.encode(clip(), max_frames=8)
    tiny = bundle("llava_onevision")
    for each in settings:
        outcome = many.run(encoded, each, QUESTIONS)
        layer = None if each.method is None else 1
        watched = VideoChat(tiny.model, tiny.processor, each.method, layer=layer).watch(clip())
        assert (outcome.tokens_in, outcome.tokens_out) == (watched.tokens_in, watched.tokens_out)
        wanted = [watched.ask(question, max_new_tokens=NEW).text for question in QUESTIONS]
        assert list(outcome.texts) == wanted


def test_more_questions_than_fit_into_a_batch() -> None:
    one = runner("llava_onevision", ALL_TOKENS)
    encoded = one.encode(clip(), max_frames=8)
    whole = one.run(encoded, ALL_TOKENS, QUESTIONS).texts
    one.batch = 3
    assert one.run(encoded, ALL_TOKENS, QUESTIONS).texts == whole


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_a_query_aware_method_prefills_for_every_question(family: str) -> None:
    aware, unaware = setting(Aware()), setting(Unaware())
    both = runner(family, aware, unaware)
    encoded = both.encode(clip(), max_frames=8)
    first, second = (both.run(encoded, each, QUESTIONS) for each in (aware, unaware))
    # Its plan does not really depend on the question, so that the two must agree.
    assert first.texts == second.texts
    assert first.tokens_out == second.tokens_out


def test_a_method_gets_only_the_evidence_it_asked_for() -> None:
    watching, blind = setting(Watching()), setting(Unaware())
    both = runner("llava_onevision", blind, watching)
    encoded = both.encode(clip(), max_frames=8)
    first, second = (both.run(encoded, each, QUESTIONS) for each in (watching, blind))
    assert first.texts == second.texts


def test_a_budget_out_of_reach_gives_no_answers() -> None:
    (flat,) = make_settings(["sttm:spatial_threshold=none"], [1])
    one = runner("llava_onevision", flat)
    encoded = one.encode(clip(), max_frames=8)
    outcome = one.run(encoded, flat, QUESTIONS)
    assert outcome.tokens_out is None
    assert outcome.texts == (None,) * len(QUESTIONS)


def test_what_a_method_refuses_names_the_method() -> None:
    (odd,) = make_settings(["sttm:per_head=7"], [0.5])
    one = runner("llava_onevision", odd)
    encoded = one.encode(clip(), max_frames=8)
    with pytest.raises(sttm.ConfigError, match=r"^sttm per_head 7 0.5: per_head: got 7 heads"):
        one.run(encoded, odd, QUESTIONS)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_timed_answers_are_the_same_answers(family: str) -> None:
    aware, unaware = setting(Aware()), setting(Unaware())
    both = runner(family, aware, unaware)
    encoded = both.encode(clip(), max_frames=8)
    hooks = len(both.model._forward_hooks), len(both.model._forward_pre_hooks)
    for each in (aware, unaware):
        wanted = both.run(encoded, each, QUESTIONS)
        found = list(both.answers(encoded, each, QUESTIONS))
        assert tuple(answer.text for answer in found) == wanted.texts
        assert {answer.tokens_out for answer in found} == {wanted.tokens_out}
        assert all(answer.shared is (each is unaware) for answer in found)
        assert all((answer.prefill > 0) is answer.shared for answer in found)
        assert all(0 < answer.first_forward < answer.answering for answer in found)
        assert all(1 <= answer.new_tokens <= NEW for answer in found)
        if each is unaware:
            assert len({answer.prefill for answer in found}) == 1
    assert hooks == (len(both.model._forward_hooks), len(both.model._forward_pre_hooks))
