import pytest
import torch

import sttm
from sttm.chat import VideoChat
from tests.chat.tiny import FAMILIES, bundle, clip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [None, sttm.STTM(keep=0.4)])
def test_logits_of_an_answer_are_those_it_was_generated_with(
    family: str, method: sttm.Method | None
) -> None:
    tiny = bundle(family)
    layer = None if method is None else 1
    video = VideoChat(tiny.model, tiny.processor, method, layer=layer).watch(clip())
    for question in ("Why?", "How many are there?"):
        wish = {"return_dict_in_generate": True, "output_logits": True}
        answer = video.ask(question, max_new_tokens=6, **wish)
        found = video.answer_logits(question, answer.ids)
        torch.testing.assert_close(found, torch.cat(answer.output.logits), rtol=1e-4, atol=1e-4)
    assert video.ask("Why?", max_new_tokens=6).ids == video.ask("Why?", max_new_tokens=6).ids


def test_logits_of_a_later_turn() -> None:
    tiny = bundle("llava_onevision")
    talk = VideoChat(tiny.model, tiny.processor).watch(clip()).conversation()
    talk.ask("Why?", max_new_tokens=3)
    before = talk.answer_logits("And?", [5, 7])
    assert before.shape[0] == 2
    assert len(talk.history) == 1
    wish = {"return_dict_in_generate": True, "output_logits": True}
    answer = talk.ask("And?", max_new_tokens=1, **wish)
    torch.testing.assert_close(before[:1], answer.output.logits[0], rtol=1e-4, atol=1e-4)
