"""Teach a copy of nano to say when something is to be seen; nano itself was not trained on it.

    python -m training.when --export build/when/weights

It starts from the bundled weights. The tower stays as it is; the decoder learns spans of seconds
on scenes of at most 16 frames. A run that was cut off goes on when the command is repeated.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from sttm.nano.clips import Clip
from sttm.nano.grounding import grounding_questions
from sttm.nano.model import weights_path
from sttm.nano.scenes import make_scene
from training.ask import Packer
from training.checkpoint import load_state, new_model
from training.context import regress
from training.data import HELD_OUT, Batches, prefetch, train_clip, train_scene
from training.decoder import accuracy_on
from training.export import export
from training.initial import ORDER_LAYER, add_order_heads
from training.labels import cell_batch
from training.loop import Log, run_steps
from training.packing import ATTENTION, Packed, answer_loss, packed_logits
from training.text import build_tokenizer

SECONDS = 10  # of every scene: the answers are read off places on this time axis
LENGTHS = ((4, 9), (6, 6), (10, 3))  # frames, at random seconds; scenes of a batch
# Rotary pairs that turn by 3.6 and 8.5 rad in ten seconds, and their phases: the hands of a clock.
HANDS = ((6, 0.0), (5, 0.0), (5, math.pi / 2))
SINK = 9.0  # its square, over the root of a head's width, has to win over all video tokens
HAND = 3.0
SHARPER = 3.0  # than for questions about order: needles may be brief, and several
CLOCK_SIZE = 0.5  # root mean square of what a hand writes into a stream of 12: no more than needed
ANSWER_SIZE = 6.0  # the same at the positions that answer, into a stream of 8
CLOCK_LAYER = 1  # without its heads nano answers as well as with them
SCENES = 0.5  # share of scenes; the rest are clips with four needles
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
            scene = rng.random() < SCENES
            clip = train_scene(rng, frames) if scene else train_clip(rng, frames, 4)
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


@torch.no_grad()
def add_clock(model: LlavaOnevisionForConditionalGeneration, batch: Packed) -> None:
    """Let video tokens know when they are: set a key-value group that nano does without.

    A token looks at the first two tokens of the prompt and at nothing else. How much more at one
    than at the other is the cosine of an angle that turns with its distance from them.

    Args:
        model: whose layer it is.
        batch: on which its inputs are measured.
    """
    text = model.model.language_model
    attention = text.layers[CLOCK_LAYER].self_attn
    width = text.config.hidden_size // text.config.num_attention_heads
    half = width // 2
    inputs = layer_inputs(model, batch, CLOCK_LAYER).flatten(0, 1)
    place = torch.arange(len(inputs)) % batch.context_positions.shape[-1]
    one, other = (place == 0).float(), (place == 1).float()
    either, which = regress(inputs, torch.stack([one + other, one - other], 1))
    own = slice(width, 2 * width)
    for projection in (attention.k_proj, attention.v_proj):
        projection.weight[own] = 0
        projection.bias[own] = 0
    attention.k_proj.weight[width + half - 1] = SINK * either
    for pair in {pair for pair, _ in HANDS}:
        attention.k_proj.weight[width + pair] = HAND * which
    attention.v_proj.weight[width] = which
    attention.q_proj.weight[3 * width :] = 0
    attention.q_proj.bias[3 * width :] = 0
    attention.o_proj.weight[:, 3 * width :] = 0
    directions = random_directions(text.config.hidden_size, len(HANDS))
    for head, (pair, phase) in enumerate(HANDS, 3):
        first = head * width
        attention.q_proj.bias[first + half - 1] = SINK
        attention.q_proj.bias[first + pair] = HAND * math.cos(phase)
        attention.q_proj.bias[first + pair + half] = HAND * math.sin(phase)
        attention.o_proj.weight[:, first] = CLOCK_SIZE * directions[head - 3]


@torch.no_grad()
def read_clock(model: LlavaOnevisionForConditionalGeneration, batch: Packed) -> None:
    """Let the heads that find the first and the last needle tokens tell their time.

    Args:
        model: with the heads of `add_order_heads`.
        batch: on which the inputs of their layer are measured.
    """
    text = model.model.language_model
    attention = text.layers[ORDER_LAYER].self_attn
    width = text.config.hidden_size // text.config.num_attention_heads
    inputs = layer_inputs(model, batch, ORDER_LAYER)
    positions = batch.context_positions.float()
    turn = [text.rotary_emb.inv_freq[pair] * positions - phase for pair, phase in HANDS]
    rows = width - len(HANDS)
    hands = torch.stack(turn, -1).cos().flatten(0, 1)
    attention.v_proj.weight[width + rows : 2 * width] = regress(inputs.flatten(0, 1), hands)
    attention.v_proj.bias[width + rows : 2 * width] = 0
    for first in (3 * width, 4 * width):
        attention.q_proj.weight[first : first + width] *= SHARPER
        attention.q_proj.bias[first + width // 2 - 1] *= SHARPER
    directions = random_directions(text.config.hidden_size, 2 * len(HANDS))
    for i, head in enumerate((3, 4)):
        columns = slice(head * width + rows, (head + 1) * width)
        attention.o_proj.weight[:, columns] = ANSWER_SIZE * directions[i::2].T


def hold(model: LlavaOnevisionForConditionalGeneration) -> list[torch.nn.Parameter]:
    """Keep what finds needles and tells the time; return what is trained.

    Trained freely, the heads that find needles were undone within a hundred steps.
    """
    text = model.model.language_model
    found = text.layers[ORDER_LAYER].self_attn
    model.requires_grad_(False)
    for part in (*text.layers[ORDER_LAYER:], text.norm):
        part.requires_grad_(True)
    for part in (found.q_proj, found.k_proj, text.layers[ORDER_LAYER].input_layernorm):
        part.requires_grad_(False)
    return [parameter for parameter in text.parameters() if parameter.requires_grad]


def layer_inputs(
    model: LlavaOnevisionForConditionalGeneration, batch: Packed, layer: int
) -> Tensor:
    """What a layer's projections see of the prompt and the video: ``(B, P + V, WIDTH)``."""
    seen: list[Tensor] = []
    norm = model.model.language_model.layers[layer].input_layernorm
    handle = norm.register_forward_hook(lambda _, __, output: seen.append(output))
    packed_logits(model, batch)
    handle.remove()
    return seen[0][:, : batch.context_positions.shape[-1]]


def random_directions(width: int, count: int) -> Tensor:
    """Directions that nothing else uses, ``(count, width)``."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, width, generator=generator)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Teach a copy of nano to say when.")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
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
        model.set_attn_implementation({"text_config": ATTENTION})
        batches = held_out(32)
        add_clock(model, batches[0])
        add_order_heads(model, batches)
        read_clock(model, batches[0])
    model.set_attn_implementation({"text_config": ATTENTION})
    parameters = hold(model)
    first = int(resume["step"]) if resume else 0
    run_steps(
        name="when",
        modules={"model": model, "head": head},
        groups=[{"params": parameters, "peak": args.rate}],
        batches=prefetch(WhenBatches(args.seed, "when", first, args.steps)),
        loss_of=lambda batch: answer_loss(packed_logits(model, batch)[0], batch, {}),
        evaluate=accuracy_on(model, {"scene16": held_out(48)}),
        first=first,
        steps=args.steps,
        log=Log(args.work / "when.jsonl"),
        checkpoint=checkpoint,
        warmup=20,
        floor=0.02,
        every=20,
        eval_every=100,
        optimiser_state=resume["optimiser"] if resume else None,
    )
    if args.export:
        export(model, args.export)


if __name__ == "__main__":
    main()
