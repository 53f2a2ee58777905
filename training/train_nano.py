"""Train nano from a seed.

    python -m training.train_nano --seed 0                  # the whole schedule
    python -m training.train_nano --only one --after tower2 # one stage, from the end of another
    python -m training.train_nano --only scenes --begin src/sttm/nano/weights

With ``torchrun --nproc-per-node 2 -m training.train_nano --threads 1`` two processes each make a
batch and average their gradients. Checkpoints go to ``--work`` and are written atomically after
every evaluation; a stage that was cut off goes on from there when the command is repeated.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionForConditionalGeneration

from training.ask import AskBatches, Recipe
from training.checkpoint import load_state, load_weights, new_model
from training.context import add_context_heads, hold_context_heads
from training.data import prefetch
from training.decoder import packed_accuracy, packed_loss
from training.export import export
from training.initial import add_order_heads, fit_read_outs, point_scene_words, prepare_decoder
from training.loop import Log, run_steps
from training.model import CellHead, video_tokens
from training.packing import ATTENTION
from training.parallel import start, wait
from training.scenery import SceneryBatches, scenery_accuracy
from training.stages import STAGES, Stage, stage_named
from training.text import build_tokenizer
from training.tower import CellBatches, cell_accuracy, cell_loss

ROOT = Path(__file__).resolve().parent.parent


def run_stage(
    stage: Stage,
    model: LlavaOnevisionForConditionalGeneration,
    head: CellHead,
    *,
    seed: int,
    rank: int,
    work: Path,
    logs: Path,
    resume: dict[str, Any] | None,
) -> None:
    """Run one stage to its end, from its own checkpoint if there is one."""
    first = int(resume["step"]) if resume else 0
    seeing = [
        *model.model.vision_tower.parameters(),
        *model.model.multi_modal_projector.parameters(),
        *head.parameters(),
    ]
    groups: list[dict[str, Any]] = [{"params": seeing, "peak": stage.tower_rate}]
    loss_of: Callable[[Any], torch.Tensor]
    evaluate: Callable[[], dict[str, float]]
    if stage.recipe is None:
        kind = SceneryBatches if stage.scenery else CellBatches
        batches = prefetch(kind(seed, stage.name, first, stage.steps, rank))

        def tower_loss(batch: Any) -> torch.Tensor:
            tokens = video_tokens(model, batch.frames)[:, :-1]
            return cell_loss(head, tokens.flatten(0, 1), batch.labels.flatten(0, 2))

        loss_of = tower_loss
        evaluate = partial(scenery_accuracy if stage.scenery else cell_accuracy, model, head)
    else:
        reading = [*model.model.language_model.parameters(), model.model.image_newline]
        groups.append({"params": reading, "peak": stage.decoder_rate})
        batches = prefetch(AskBatches(stage.recipe, seed, stage.name, first, stage.steps, rank))
        model.set_attn_implementation({"text_config": ATTENTION})
        loss_of = packed_loss(
            model, head, weights=dict(stage.weights), crowd_weight=stage.crowd_weight
        )
        answers = packed_accuracy(model, stage.evaluate, stage.scene_evaluate)

        def evaluate() -> dict[str, float]:
            return answers() | (scenery_accuracy(model, head) if stage.scene_evaluate else {})

    run_steps(
        name=stage.name,
        modules={"model": model, "head": head},
        groups=groups,
        batches=batches,
        loss_of=loss_of,
        evaluate=evaluate,
        first=first,
        steps=stage.steps,
        log=Log(logs / f"{stage.name}.jsonl"),
        checkpoint=work / f"{stage.name}.pt",
        warmup=stage.warmup,
        floor=stage.floor,
        horizon=stage.horizon,
        rank=rank,
        eval_every=stage.eval_every,
        optimiser_state=resume["optimiser"] if resume else None,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="run this stage only")
    parser.add_argument("--after", help="stage whose checkpoint it starts from, with --only")
    parser.add_argument("--begin", type=Path, help="weights folder it starts from, with --only")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "nano")
    parser.add_argument("--journal", type=Path, default=ROOT / "build" / "nano" / "log")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", type=Path, help="write the weights folder here at the end")
    return parser.parse_args()


def main() -> None:
    """Run the stages that are not finished yet."""
    args = parse()
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    torch.set_num_threads(args.threads)
    rank = start()
    model, head = new_model(args.seed)
    stages = (stage_named(args.only),) if args.only else STAGES
    before: Path | None = args.work / f"{args.after}.pt" if args.after else None
    for stage in stages:
        own = args.work / f"{stage.name}.pt"
        resume = None
        if own.exists():
            resume = load_state(own, model, head)
        elif before is not None:
            load_state(before, model, head)
        elif args.begin is not None:
            load_weights(args.begin, model)
        if resume is None and stage.fresh_decoder:
            batches = CellBatches(args.seed, "initial", 0, 12)
            measured = [batches[i] for i in range(len(batches))]
            prepare_decoder(model, head, build_tokenizer(), measured, args.seed)
        if resume is None and stage.order_heads:
            model.set_attn_implementation({"text_config": ATTENTION})
            asked = AskBatches(Recipe(((4, 8), (8, 4))), args.seed, "initial", 0, 12)
            add_order_heads(model, [asked[i] for i in range(len(asked))])
        if resume is None and (stage.scenery or stage.scene_words):
            seen = SceneryBatches(args.seed, "initial", 0, 16)
            measured = [seen[i] for i in range(len(seen))]
            if stage.scenery:
                fit_read_outs(model, head, measured)
            else:
                point_scene_words(model, build_tokenizer(), measured)
        if resume is None and stage.context_heads:
            model.set_attn_implementation({"text_config": ATTENTION})
            recipe = Recipe(((4, 8), (8, 4)), scenes=1.0, questions=12)
            asked = AskBatches(recipe, args.seed, "initial", 0, 10)
            add_context_heads(model, build_tokenizer(), [asked[i] for i in range(len(asked))])
        if stage.hold_context:
            hold_context_heads(model)
        if resume is None or int(resume["step"]) < stage.steps:
            run_stage(
                stage,
                model,
                head,
                seed=args.seed,
                rank=rank,
                work=args.work,
                logs=args.journal,
                resume=resume,
            )
        before = own
        wait()
    if args.export and rank == 0:
        export(model, args.export)


if __name__ == "__main__":
    main()
