"""nano, a trained LLaVA-OneVision model, answers in vLLM as it does in transformers."""

import pytest
import torch

import sttm
from sttm import nano

from .engine import STOCK, Clip, Engine, Request
from .test_exact import all_tokens, equal

FRAMES, PER_FRAME = 24, 64
CLIPS = tuple(Clip(FRAMES, 1.0, seed, nano=True) for seed in range(30_000_000, 30_000_006))
QUESTIONS = [nano.make_questions(nano.make_clip(c.seed, FRAMES), 0)[-1] for c in CLIPS]
HALF = Engine(str(nano.weights_path()), sttm="{}", rate=0.5)


def prompt(question: str) -> str:
    return f"<|im_start|>user\n<video>\n{question}<|im_end|>\n<|im_start|>assistant\n"


REQUESTS = tuple(
    Request(prompt(question.text), (clip,), tokens=4) for question, clip in zip(QUESTIONS, CLIPS)
)


@pytest.mark.usefixtures("checkpoint")
def test_all_tokens_are_stock_and_half_is_exact() -> None:
    stock = Engine(HALF.model, environment=tuple(STOCK.items())).ask(*REQUESTS)
    equal(Engine(HALF.model).ask(*REQUESTS), stock)
    answers = HALF.ask(*REQUESTS, *map(all_tokens, REQUESTS))
    equal(answers[len(REQUESTS) :], stock)
    for half, whole in zip(answers, stock, strict=False):
        assert whole.prompt_tokens - half.prompt_tokens == FRAMES * PER_FRAME // 2


@pytest.mark.usefixtures("checkpoint")
def test_it_answers_as_in_transformers() -> None:
    model, processor = nano.load()
    answers = HALF.ask(*REQUESTS, *map(all_tokens, REQUESTS))[: len(REQUESTS)]
    for request, answer in zip(REQUESTS, answers, strict=True):
        [clip] = request.clips
        inputs = processor(text=[request.prompt], videos=[clip.pixels()], return_tensors="pt")
        method = sttm.STTM(keep=0.5)
        with (
            torch.no_grad(),
            sttm.attach(model, method, layer=0, positions="reassigned"),
        ):
            logprobs = model(**inputs).logits[0, -1].log_softmax(0)
        assert answer.logprobs[0] == pytest.approx(logprobs.tolist(), abs=1e-4)
    said = [answer.text.strip() for answer in answers]
    right = [text == question.answer for text, question in zip(said, QUESTIONS, strict=True)]
    assert sum(right) >= len(right) - 1, said
