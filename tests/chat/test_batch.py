"""Questions together on one prefill give what they give one by one."""

import pytest

import sttm
from sttm.chat import VideoChat
from sttm.chat.batch import ask_many
from tests.chat.tiny import FAMILIES, bundle, clip

QUESTIONS = ["Why?", "Which digit is it that appears?", "Where?", "How many there are, say!"]
NEW = 5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [None, sttm.STTM(keep=0.4), sttm.STTM()])
def test_together_is_one_by_one(family: str, method: sttm.Method | None) -> None:
    tiny = bundle(family)
    layer = None if method is None else 1
    watched = VideoChat(tiny.model, tiny.processor, method, layer=layer).watch(clip())
    alone = [watched.ask(question, max_new_tokens=NEW).text for question in QUESTIONS]
    assert ask_many(watched, QUESTIONS, max_new_tokens=NEW) == alone
    # The prefill is not changed by it.
    assert watched.ask(QUESTIONS[0], max_new_tokens=NEW).text == alone[0]
