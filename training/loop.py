"""The optimisation loop shared by all stages: schedule, clipping, logs, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.parallel import average_gradients


def learning_rate_scale(step: int, steps: int, warmup: int, floor: float) -> float:
    """Linear warmup to 1, then a cosine down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """torch.save that never leaves half a file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


class Log:
    """One JSON object per line, appended."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, **entry: object) -> None:
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in entry.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")
        print(json.dumps(rounded), flush=True)


def run_steps(
    *,
    name: str,
    modules: dict[str, nn.Module],
    groups: list[dict[str, Any]],
    batches: Iterator[Any],
    loss_of: Callable[[Any], Tensor],
    evaluate: Callable[[], dict[str, float]],
    first: int,
    steps: int,
    log: Log,
    checkpoint: Path,
    warmup: int = 50,
    floor: float = 0.05,
    horizon: int = 0,
    rank: int = 0,
    every: int = 50,
    eval_every: int = 200,
    optimiser_state: dict[str, Any] | None = None,
) -> None:
    """Train for ``steps - first`` steps with AdamW; the first process logs, evaluates, saves."""
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02)
    if optimiser_state is not None:
        optimiser.load_state_dict(optimiser_state)
    base = [float(group["peak"]) for group in groups]
    parameters = [p for group in groups for p in group["params"]]
    begun, total = time.perf_counter(), 0.0
    for step in range(first, steps):
        scale = learning_rate_scale(step, horizon or steps, warmup, floor)
        for group, peak in zip(optimiser.param_groups, base, strict=True):
            group["lr"] = peak * scale
        loss = loss_of(next(batches))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        total += loss.item()
        done = step + 1
        if rank:
            continue
        if done % every == 0 or done == steps:
            seconds = time.perf_counter() - begun
            count = min(done - first, done % every or every)  # since the last entry
            log.write(
                stage=name, step=done, loss=total / count, seconds=seconds, lr=base[-1] * scale
            )
            total = 0.0
        if done % eval_every == 0 or done == steps:
            log.write(stage=name, step=done, **{f"acc_{k}": v for k, v in evaluate().items()})
            state = {key: module.state_dict() for key, module in modules.items()}
            save_atomically(
                {"stage": name, "step": done, "optimiser": optimiser.state_dict(), **state},
                checkpoint,
            )
