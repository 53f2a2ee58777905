"""Counts are exact, and what sttm does not touch is vLLM's own, bit by bit."""

import pytest

from .conftest import Checkpoint
from .engine import IMAGE, STOCK, VIDEO, Answer, Clip, Engine, Request, turn

OTHERS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
NAMES = ("qwen3_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS))
FAST = Clip(8, fps=4.0, seed=5, size=(84, 112))  # half a second per time step
ONE = Request(turn("What is this?"))
MANY = Request(turn("Compare them.", IMAGE + VIDEO + "and" + VIDEO), (Clip(seed=3), FAST), images=1)
WHOLE = (("sttm_keep", 1.0),)


def all_tokens(request: Request) -> Request:
    return Request(request.prompt, request.clips, request.images, WHOLE, request.tokens)


def equal(answers: list[Answer], others: list[Answer]) -> None:
    for answer, other in zip(answers, others, strict=True):
        assert answer.positions == other.positions
        assert answer.ids == other.ids
        assert answer.logprobs == other.logprobs


@pytest.mark.parametrize("name", NAMES)
def test_off_is_stock(name: str, checkpoint: Checkpoint) -> None:
    stock = Engine(checkpoint(name), environment=tuple(STOCK.items()))
    equal(Engine(checkpoint(name)).ask(ONE, MANY), stock.ask(ONE, MANY))


@pytest.mark.parametrize("name", NAMES)
def test_all_tokens_are_stock_and_half_is_exact(name: str, checkpoint: Checkpoint) -> None:
    stock = Engine(checkpoint(name), environment=tuple(STOCK.items())).ask(ONE, MANY)
    half = Engine(checkpoint(name), sttm="{}", rate=0.5)
    one, many, *whole, tenth, three = half.ask(
        ONE,
        MANY,
        all_tokens(ONE),
        all_tokens(MANY),
        Request(ONE.prompt, kwargs=(("sttm_keep", 0.1),)),
        Request(ONE.prompt, kwargs=(("sttm_keep", 3),)),
    )
    equal(whole, stock)
    length, removed = stock[0].prompt_tokens, Clip().num_tokens
    assert one.prompt_tokens == length - removed + removed // 2
    assert tenth.prompt_tokens == length - removed + removed // 10
    assert three.prompt_tokens == length - removed + 3
    removed = Clip(seed=3).num_tokens // 2 + FAST.num_tokens // 2
    assert many.prompt_tokens == stock[1].prompt_tokens - removed
    assert one.logprobs != stock[0].logprobs
