"""Settings side by side on one encoding, with tiny models of several families."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

import sttm
from sttm.chat.records import Encoded
from sttm.evaluation.evaluator import Evaluator
from sttm.evaluation.record import TimedAnswer
from sttm.evaluation.specs import Setting
from sttm.methods import Method, Signal, VideoFeatures
from tests.chat.tiny import bundle

from .small import needle, needle_config

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


def evaluator(family: str, *settings: Setting) -> tuple[Evaluator, Encoded]:
    tiny = bundle(family)
    config = replace(needle_config(), settings=settings, layer=1, max_new_tokens=NEW)
    made = Evaluator(config, tiny.model, tiny.processor)
    item = needle().items(None)[0]
    return made, made.encode(replace(item, extra={**item.extra, "frames": "2"}))


def setting(method: Any) -> Setting:
    return Setting(method.name, 0.5, method, method.name)


def texts(answers: Sequence[TimedAnswer]) -> list[str]:
    return [answer.text for answer in answers]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_a_query_aware_method_prefills_for_every_question(family: str) -> None:
    aware, unaware = setting(Aware()), replace(setting(Unaware()), label="unaware")
    both, encoded = evaluator(family, aware, unaware)
    hooks = len(both.model._forward_hooks), len(both.model._forward_pre_hooks)
    first, second = (list(both.answers(encoded, each, QUESTIONS)) for each in (aware, unaware))
    # Its plan does not really depend on the question, so that the two must agree.
    assert texts(first) == texts(second)
    assert {a.tokens_out for a in first} == {a.tokens_out for a in second}
    for answers, shared in ((first, False), (second, True)):
        assert all(a.shared is shared and (a.prefill > 0) is shared for a in answers)
        assert all(0 < a.first_forward < a.answering for a in answers)
        assert all(a.new_tokens and a.new_tokens <= NEW for a in answers)
    assert len({a.prefill for a in second}) == 1
    assert hooks == (len(both.model._forward_hooks), len(both.model._forward_pre_hooks))


def test_a_method_gets_only_the_evidence_it_asked_for() -> None:
    watching, blind = setting(Watching()), replace(setting(Unaware()), label="blind")
    both, encoded = evaluator("llava_onevision", blind, watching)
    first, second = (list(both.answers(encoded, each, QUESTIONS)) for each in (watching, blind))
    assert texts(first) == texts(second)
