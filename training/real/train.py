"""Train the model on features of a trained encoder, from a seed.

    python -m training.real.train --seed 0
    python -m training.real.train --then longer  # 300 steps more
    python -m training.real.train --then mrope  # instead of these: the same decoder with M-RoPE

Pools of encoded frames and checkpoints go to ``--work``. What is there is not made again: the last
stage with a checkpoint goes on from it, or is finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionForConditionalGeneration

from training.checkpoint import load_state
from training.data import prefetch
from training.decoder import accuracy_on, packed_loss
from training.initial import add_order_heads, prepare_decoder
from training.loop import Log, run_steps
from training.model import CellHead, video_tokens
from training.packing import ATTENTION, Packed
from training.real.clips import FRAMES
from training.real.data import AskBatches, CellBatches, RealRecipe
from training.real.model import LEXICON, new_model, tokenizer
from training.real.mrope import MROPE, give_mrope
from training.real.pool import Pool
from training.real.sources import ROOT, Material
from training.tower import cell_loss

WORK = ROOT / "build" / "real"
TIME_PAIR = 8  # turns by 0.8 rad in the 768 tokens of a clip
MROPE_TIME_PAIR = 3  # the slowest of time; by 1.7 rad in a clip
TRAIN_SHOTS, TEST_SHOTS = 360, 80
EVALUATED = {"train": 2, "held": 6}  # batches of either pool
MEASURED = {"cells": 20, "order": 10}  # batches to initialise a decoder from, and its order heads


@dataclass(frozen=True)
class Stage:
    """One part of the schedule.

    Args:
        name: of checkpoint and log.
        steps: of the optimiser.
        rate: peak learning rate of the decoder; of the projector a third.
        recipe: of the batches; None for the projector alone, on labels of cells.
        fresh: initialise the decoder first.
        order_heads: add heads for order and count first.
        floor: share of the learning rate at the end.
    """

    name: str
    steps: int
    rate: float
    recipe: RealRecipe | None = None
    fresh: bool = False
    order_heads: bool = False
    floor: float = 0.3


STAGES = (
    Stage("cells", 150, 3e-3),
    Stage("short", 200, 1.5e-3, RealRecipe(6, 8, needles=3), fresh=True, floor=0.7),
    Stage("order", 250, 1.5e-3, RealRecipe(7, 8), order_heads=True, floor=0.5),
    Stage("full", 240, 1.3e-3, RealRecipe(9, 7), floor=0.02),
)
# Both start from the end of "full".
LONGER = Stage("longer", 300, 1e-3, RealRecipe(FRAMES, 6), floor=0.02)
WITH_MROPE = replace(LONGER, name=MROPE, recipe=RealRecipe(FRAMES, 6, mrope=True), order_heads=True)
FURTHER = {stage.name: stage for stage in (LONGER, WITH_MROPE)}


def open_pools(work: Path) -> tuple[Pool, Pool]:
    """Open the pools to train on and to test with; what is not there is made."""
    return (
        Pool(work / "train.pool", Material(), TRAIN_SHOTS),
        Pool(work / "test.pool", Material(held_out=True), TEST_SHOTS),
    )


def run_stage(
    stage: Stage,
    model: LlavaOnevisionForConditionalGeneration,
    head: CellHead,
    pools: tuple[Pool, Pool],
    *,
    seed: int,
    work: Path,
    resume: dict[str, Any] | None,
) -> None:
    """Run one stage to its end.

    Args:
        stage: which.
        model: without its tower.
        head: read-outs of its cells.
        pools: to train on, and held out.
        seed: of the batches.
        work: for checkpoint and log.
        resume: the stage's own checkpoint, if there is one.
    """
    first = int(resume["step"]) if resume else 0
    groups: list[dict[str, Any]] = [
        {
            "params": [*model.model.multi_modal_projector.parameters(), *head.parameters()],
            "peak": stage.rate if stage.recipe is None else stage.rate / 3,
        }
    ]
    loss_of: Callable[[Any], torch.Tensor]
    batches: AskBatches | CellBatches
    if stage.recipe is None:
        batches = CellBatches(pools[0], seed, stage.name, first, stage.steps)

        def loss_of(batch: Any) -> torch.Tensor:
            tokens = video_tokens(model, batch.frames)[:, :-1].flatten(0, 1)
            return cell_loss(head, tokens, batch.labels.flatten(0, 2))

        def evaluate() -> dict[str, float]:
            return cell_accuracy(model, head, pools[1])
    else:
        groups.append(
            {
                "params": [*model.model.language_model.parameters(), model.model.image_newline],
                "peak": stage.rate,
            }
        )
        batches = AskBatches(stage.recipe, pools[0], seed, stage.name, first, stage.steps)
        loss_of = packed_loss(model, head, weights={}, crowd_weight=0.0)
        evaluate = accuracy_on(
            model,
            {
                name: asked_batches(pool, stage.recipe, count)
                for pool, (name, count) in zip(pools, EVALUATED.items(), strict=True)
            },
        )
    run_steps(
        name=stage.name,
        modules={"model": model, "head": head},
        groups=groups,
        batches=prefetch(batches, workers=0),
        loss_of=loss_of,
        evaluate=evaluate,
        first=first,
        steps=stage.steps,
        log=Log(work / f"{stage.name}.jsonl"),
        checkpoint=work / f"{stage.name}.pt",
        warmup=20,
        floor=stage.floor,
        every=25,
        eval_every=125,
        optimiser_state=resume["optimiser"] if resume else None,
    )


def asked_batches(pool: Pool, recipe: RealRecipe, count: int) -> list[Packed]:
    """Pack ``count`` batches that no stage trains on."""
    batches = AskBatches(recipe, pool, 0, "evaluation", 0, count)
    return [batches[i] for i in range(count)]


@torch.no_grad()
def cell_accuracy(
    model: LlavaOnevisionForConditionalGeneration, head: CellHead, pool: Pool
) -> dict[str, float]:
    """Accuracy of the read-outs where they have a label; the kind where there is a needle."""
    made = CellBatches(pool, 0, "evaluation", 0, EVALUATED["held"])
    right: dict[str, list[torch.Tensor]] = {name: [] for name in head.read_outs}
    for batch in (made[i] for i in range(len(made))):
        tokens = video_tokens(model, batch.frames)[:, :-1].flatten(0, 1)
        labels = batch.labels.flatten(0, 2)
        for column, (name, logits) in enumerate(zip(head.read_outs, head(tokens))):
            known = labels[:, column] >= 0
            if head.read_outs[name].none is not None:
                known &= labels[:, column] != head.read_outs[name].none
            right[name].append((logits.argmax(-1) == labels[:, column])[known])
    return {name: float(torch.cat(hits).float().mean()) for name, hits in right.items()}


def switch(stage: Stage, model: LlavaOnevisionForConditionalGeneration) -> None:
    """Give the decoder the positions and the attention that a stage needs."""
    if stage.recipe is not None:
        if stage.recipe.mrope:
            give_mrope(model)
        model.model.language_model.set_attn_implementation(ATTENTION)


def begin(
    stage: Stage,
    model: LlavaOnevisionForConditionalGeneration,
    head: CellHead,
    pool: Pool,
    seed: int,
) -> None:
    """Initialise what a stage starts with; the decoder is as `switch` leaves it."""
    if stage.fresh:
        seen = CellBatches(pool, seed, "initial", 0, MEASURED["cells"])
        measured = [seen[i] for i in range(len(seen))]
        prepare_decoder(model, head, tokenizer(), measured, seed, LEXICON)
    if stage.recipe is not None and stage.order_heads:
        pair = MROPE_TIME_PAIR if stage.recipe.mrope else TIME_PAIR
        recipe = RealRecipe(8, 8, mrope=stage.recipe.mrope)
        add_order_heads(model, asked_batches(pool, recipe, MEASURED["order"]), LEXICON, pair)


def main() -> None:
    """Run the stages that are not finished yet."""
    parser = argparse.ArgumentParser(description="Train on features of a trained encoder.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--then", choices=FURTHER, help="a stage to end with")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pools = open_pools(args.work)
    model, head = new_model(args.seed)
    stages = STAGES if args.then is None else (*STAGES, FURTHER[args.then])
    saved = [i for i, stage in enumerate(stages) if (args.work / f"{stage.name}.pt").exists()]
    for stage in stages[max(saved, default=0) :]:
        own = args.work / f"{stage.name}.pt"
        switch(stage, model)
        resume = load_state(own, model, head) if own.exists() else None
        if resume is None:
            begin(stage, model, head, pools[0], args.seed)
        if resume is None or int(resume["step"]) < stage.steps:
            run_stage(stage, model, head, pools, seed=args.seed, work=args.work, resume=resume)


if __name__ == "__main__":
    main()
