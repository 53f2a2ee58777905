"""A decoder with int8 weights (torchao) beside the same in float32: plans, prefill, decoding.

    pip install torchao
    python benchmarks/int8_decoder.py --shape llava-onevision-0.5b --frames 8 --keep 0.1

Random weights; one thread; CPU seconds, the least of the rounds, in which all settings take turns.
"""

import argparse
import copy
import time
from typing import Any

import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from sttm import STTM, attach
from sttm.evaluation.shapes import build, find_shape, prompt
from sttm.methods.base import Method
from sttm.models import transformers_api as api

DECODED = 8


@torch.no_grad()
def run(model: Any, inputs: dict[str, Any], method: Method, layer: int) -> tuple[Any, float, float]:
    """Return the plan, the seconds of the prefill and those of a decoding step."""
    with attach(model, method, layer=layer) as attachment:
        start = time.process_time()
        out = model(**inputs, use_cache=True, logits_to_keep=1)
        first = time.process_time()
        plan, cache = attachment.reports[0].plan, api.cache_of(out)
        token = out.logits[:, -1:].argmax(-1)
        for _ in range(DECODED):
            step = model(input_ids=token, **api.cache_argument(model, cache), use_cache=True)
            token = step.logits[:, -1:].argmax(-1)
        return plan, first - start, (time.process_time() - first) / DECODED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="llava-onevision-0.5b")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = find_shape(options.shape)
    model = build(shape, torch.device("cpu"), torch.float32)
    inputs = prompt(model, shape, options.frames)
    small = copy.deepcopy(model)
    quantize_(small.model.language_model, Int8WeightOnlyConfig())
    times: dict[str, list[tuple[float, float]]] = {}
    plans = []
    for _ in range(options.repeats):
        for keep in (1.0, options.keep):
            for name, each in (("float32", model), ("int8", small)):
                plan, *seconds = run(each, inputs, STTM(keep=keep), options.layer)
                plans.append((keep, plan.group))
                times.setdefault(f"{name}, {keep:.0%}", []).append((seconds[0], seconds[1]))
    for name, found in times.items():
        prefill, step = (min(column) for column in zip(*found, strict=True))
        print(f"{name:>14}: prefill {prefill:7.2f} s, a decoding step {1e3 * step:6.0f} ms")
    same = all(torch.equal(a, b) for kept, a in plans for other, b in plans if kept == other)
    print(f"same plans: {same}")


if __name__ == "__main__":
    main()
