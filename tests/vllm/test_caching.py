"""Prefix caching and chunks change nothing: neither answers nor positions."""

import pytest

from .conftest import Checkpoint
from .engine import IMAGE, VIDEO, Answer, Clip, Engine, Request, turn

OTHERS = ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe")
NAMES = ("qwen2_5_vl", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS))
CLIP = Clip(24, fps=4.0, size=(168, 224))  # 576 tokens, half a second per time step
MORE = "It moves.<|im_end|>\n<|im_start|>user\nWhere to?<|im_end|>\n<|im_start|>assistant\n"
# Two questions, a second turn (its prefix holds the whole video) and several videos.
FIRST = Request(turn("What is this?"), (CLIP,))
OTHER = Request(turn("How many blocks are there?"), (CLIP,))
SECOND = Request(FIRST.prompt + MORE, (CLIP,))
SEVERAL = Request(turn("Compare.", IMAGE + VIDEO + "and" + VIDEO), (CLIP, Clip(seed=4)), images=1)
LATER = Request(SEVERAL.prompt + MORE, SEVERAL.clips, images=1)
TENTH = Request(FIRST.prompt, (CLIP,), kwargs=(("sttm_keep", 0.1),))
ALL = (FIRST, OTHER, SECOND, SEVERAL, LATER, TENTH, FIRST)


def engine(name: str, checkpoint: Checkpoint, **options: object) -> Engine:
    return Engine(checkpoint(name), sttm="{}", rate=0.5, options=tuple(options.items()))


def close(answers: list[Answer], others: list[Answer], tolerance: float) -> None:
    for answer, other in zip(answers, others, strict=True):
        assert answer.prompt_tokens == other.prompt_tokens
        assert answer.ids == other.ids
        for part, wanted in zip(answer.logprobs, other.logprobs, strict=True):
            assert part == pytest.approx(wanted, abs=tolerance)


def last(positions: list[list[int]], count: int) -> list[list[int]]:
    return [row[-count:] for row in positions]


@pytest.mark.parametrize("name", NAMES)
def test_prefix_caching_changes_nothing(name: str, checkpoint: Checkpoint) -> None:
    cached = engine(name, checkpoint, enable_prefix_caching=True).ask(*ALL)
    plain = engine(name, checkpoint, enable_prefix_caching=False).ask(*ALL)
    close(cached, plain, 1e-5)
    for answer, wanted in zip(cached, plain, strict=True):
        computed = len(answer.positions[0])
        assert computed == len(wanted.positions[0]) - answer.cached
        assert answer.positions == last(wanted.positions, computed)
    hits = [answer.cached for answer in cached]
    assert hits[0] == hits[3] == hits[5] == 0  # another budget is another video
    assert CLIP.num_tokens // 2 - 32 < hits[1] < cached[1].prompt_tokens - len("How many blocks")
    assert hits[2] >= cached[0].prompt_tokens - 32  # the whole video
    assert hits[4] >= cached[3].prompt_tokens - 32
    assert hits[6] >= cached[0].prompt_tokens - 32


@pytest.mark.parametrize("name", NAMES)
def test_chunks_change_nothing(name: str, checkpoint: Checkpoint) -> None:
    whole = engine(name, checkpoint, enable_prefix_caching=False).ask(*ALL)
    pieces = {"max_num_batched_tokens": 128, "enable_chunked_prefill": True}
    chunked = engine(name, checkpoint, **pieces, enable_prefix_caching=True).ask(*ALL)
    close(chunked, whole, 1e-5)
    for answer, wanted in zip(chunked, whole, strict=True):
        assert answer.positions == last(wanted.positions, len(answer.positions[0]))
