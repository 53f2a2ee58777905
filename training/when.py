"""Teach a copy of nano to say when something is to be seen; nano itself was not trained on it.

    python -m training.when --export build/when/weights

It starts from the bundled weights. The tower stays as it is; the decoder learns spans of seconds
on scenes of at most 16 frames. A run that was cut off goes on when the command is repeated.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from transformers import LlavaOnevisionForConditionalGeneration

from sttm.nano.clips import Clip
from sttm.nano.grounding import grounding_questions
from sttm.nano.model import weights_path
from sttm.nano.scenes import make_scene
from training.ask import Packer
from training.checkpoint import load_state, new_model
from training.data import HELD_OUT, Batches, prefetch, train_scene
from training.decoder import accuracy_on
from training.export import export
from training.labels import cell_batch
from training.loop import Log, run_steps
from training.packing import ATTENTION, Packed, answer_loss, packed_logits
from training.text import build_tokenizer

SECONDS = 16  # of every scene: the answers are read off places on this time axis
LENGTHS = ((4, 8), (8, 5), (8, 5), (16, 2))  # frames, at random seconds; scenes of a batch
PHRASINGS = 2  # phrasings of every question
WORK = Path("build/when")


def pack(packer: Packer, clips: Sequence[Clip], slots: Sequence[Sequence[int]]) -> Packed:
    """Pack scenes, whose frames stand at given seconds, with their questions."""
    asked = [
        [
            question
            for extra in range(PHRASINGS)
            for question in grounding_questions(clip, clip.seed + extra, seconds)
        ]
        for clip, seconds in zip(clips, slots, strict=True)
    ]
    groups = [[[i] for i in range(len(questions))] for questions in asked]
    places = [[*seconds, SECONDS] for seconds in slots]
    return packer.pack(cell_batch(clips), asked, groups, places)


class WhenBatches(Batches):
    """Scenes of one length, and when things are to be seen in them."""

    @cached_property
    def packer(self) -> Packer:
        """Of this process."""
        return Packer(build_tokenizer())

    def __getitem__(self, index: int) -> Packed:
        rng = self.generator(index)
        frames, count = LENGTHS[int(rng.integers(len(LENGTHS)))]
        clips: list[Clip] = []
        while len(clips) < count:
            clip = train_scene(rng, frames)
            if grounding_questions(clip, 0):
                clips.append(clip)
        slots = [sorted(rng.choice(SECONDS, size=frames, replace=False).tolist()) for _ in clips]
        return pack(self.packer, clips, slots)


def held_out(count: int) -> list[Packed]:
    """Scenes that training never saw, with all their frames."""
    scenes = (make_scene(seed, SECONDS) for seed in itertools.count(HELD_OUT))
    clips = list(itertools.islice((s for s in scenes if grounding_questions(s, 0)), count))
    packer, slots = Packer(build_tokenizer()), [range(SECONDS)] * 4
    return [pack(packer, clips[i : i + 4], slots) for i in range(0, count, 4)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Teach a copy of nano to say when.")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", type=Path, default=weights_path())
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the weights folder here at the end")
    return parser.parse_args()


def main() -> None:
    """Train, and export."""
    args = parse()
    torch.set_num_threads(args.threads)
    model, head = new_model(args.seed)
    checkpoint, resume = args.work / "when.pt", None
    if checkpoint.exists():
        resume = load_state(checkpoint, model, head)
    else:
        begin = LlavaOnevisionForConditionalGeneration.from_pretrained(
            args.begin, dtype=torch.float32
        )
        model.load_state_dict(begin.state_dict())
    model.requires_grad_(False)
    text = model.model.language_model.requires_grad_(True)
    model.set_attn_implementation({"text_config": ATTENTION})
    first = int(resume["step"]) if resume else 0
    run_steps(
        name="when",
        modules={"model": model, "head": head},
        groups=[{"params": list(text.parameters()), "peak": args.rate}],
        batches=prefetch(WhenBatches(args.seed, "when", first, args.steps)),
        loss_of=lambda batch: answer_loss(packed_logits(model, batch)[0], batch, {}),
        evaluate=accuracy_on(model, {"scene16": held_out(48)}),
        first=first,
        steps=args.steps,
        log=Log(args.work / "when.jsonl"),
        checkpoint=checkpoint,
        floor=0.02,
        every=20,
        eval_every=100,
        optimiser_state=resume["optimiser"] if resume else None,
    )
    if args.export:
        export(model, args.export)


if __name__ == "__main__":
    main()
