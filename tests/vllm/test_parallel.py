"""Two ranks of a tensor-parallel group give what one gives; what is not done is refused by name."""

import re

import pytest

from .conftest import Checkpoint
from .engine import IMAGE, VIDEO, Clip, Engine, Request, turn

ONE = Request(turn("What is this?"))
MANY = Request(turn("Compare.", IMAGE + VIDEO + "and" + VIDEO), (Clip(seed=3), Clip()), images=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_two_ranks_give_what_one_gives(name: str, checkpoint: Checkpoint) -> None:
    single = Engine(checkpoint(name), sttm="{}", rate=0.5)
    options = (("tensor_parallel_size", 2), ("distributed_executor_backend", "mp"))
    binding = (("VLLM_CPU_OMP_THREADS_BIND", "0|1"),)
    double = Engine(single.model, sttm="{}", rate=0.5, options=options, environment=binding)
    for answer, wanted in zip(double.ask(ONE, MANY), single.ask(ONE, MANY), strict=True):
        assert answer.prompt_tokens == wanted.prompt_tokens
        assert answer.ids == wanted.ids
        for part, other in zip(answer.logprobs, wanted.logprobs, strict=True):
            assert part == pytest.approx(other, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sttm", "rate", "options", "message"),
    [
        ("{}", None, (), "--video-pruning-rate: got None"),
        ('{"method": "fastv"}', 0.5, (), "sttm.method: got 'fastv'"),
        ('{"method": "visionzip"}', 0.5, (), "needs tower_attention"),
        (
            "{}",
            0.5,
            (("pipeline_parallel_size", 2), ("distributed_executor_backend", "mp")),
            "--pipeline-parallel-size: got 2",
        ),
    ],
)
def test_what_is_not_done_is_refused(
    sttm: str, rate: float | None, options: tuple[tuple[str, object], ...], message: str,
    checkpoint: Checkpoint,
) -> None:  # fmt: skip
    engine = Engine(checkpoint("qwen2_5_vl"), sttm=sttm, rate=rate, options=options)
    with pytest.raises(RuntimeError, match=re.escape(message)):
        engine.ask(ONE)
