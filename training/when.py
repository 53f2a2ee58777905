"""Teach a copy of nano to say when something is to be seen; nano itself was not trained on it.

    python -m training.when --export build/when

It starts from the bundled weights, and keeps the tower and the layers that find needles. Some of
their heads are set anew, so that a token knows when it is; what is behind them learns to say it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaOnevisionForConditionalGeneration

from sttm.nano.clips import Clip
from sttm.nano.grounding import grounding_questions
from sttm.nano.model import weights_path
from sttm.nano.scenes import make_scene
from training.ask import Packer
from training.checkpoint import new_model
from training.context import regress
from training.data import HELD_OUT, Batches, train_clip, train_scene
from training.decoder import accuracy_on
from training.export import export
from training.initial import ORDER_LAYER, add_order_heads, randomise
from training.labels import IGNORE, cell_batch
from training.loop import learning_rate_scale
from training.packing import ATTENTION, Packed, packed_logits
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
ROWS, RATE, NOISE = 256, 2e-3, 0.1  # positions of a step, peak learning rate, noise on inputs


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
    inputs = layer_inputs(model, batch, CLOCK_LAYER)
    inputs = inputs[:, : batch.context_positions.shape[-1]].flatten(0, 1)
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
    inputs = inputs[:, : batch.context_positions.shape[-1]]
    positions = batch.context_positions.float()
    turn = [text.rotary_emb.inv_freq[pair] * positions - phase for pair, phase in HANDS]
    rows = width - len(HANDS)
    hands = torch.stack(turn, -1).cos().flatten(0, 1)
    attention.v_proj.weight[width + rows : 2 * width] = regress(inputs.flatten(0, 1), hands)
    attention.v_proj.bias[width + rows : 2 * width] = 0
    for first in (3 * width, 4 * width):
        attention.q_proj.weight[first : first + width] *= SHARPER
        attention.q_proj.bias[first + width // 2 - 1] *= SHARPER
    attention.o_proj.weight[:, 3 * width :] = 0  # they tell nothing else
    directions = random_directions(text.config.hidden_size, 2 * len(HANDS))
    for i, head in enumerate((3, 4)):
        columns = slice(head * width + rows, (head + 1) * width)
        attention.o_proj.weight[:, columns] = ANSWER_SIZE * directions[i::2].T


@torch.no_grad()
def look_back(model: LlavaOnevisionForConditionalGeneration, batches: Sequence[Packed]) -> None:
    """Let a head tell whether the dash was written: what comes behind a number depends on it.

    Args:
        model: whose order layer it is.
        batches: on which the inputs of this layer are measured.
    """
    text = model.model.language_model
    attention = text.layers[ORDER_LAYER].self_attn
    width = text.config.hidden_size // text.config.num_attention_heads
    (dash,) = build_tokenizer().encode("-", add_special_tokens=False)
    inputs = [layer_inputs(model, batch, ORDER_LAYER) for batch in batches]
    written = [
        torch.cat([torch.zeros(len(b.ids), i.shape[1] - b.ids.shape[1]), b.ids == dash], 1)
        for i, b in zip(inputs, batches, strict=True)
    ]
    found = regress(
        torch.cat([i.flatten(0, 1) for i in inputs]), torch.cat([*map(torch.flatten, written)])
    )
    for projection in (attention.k_proj, attention.q_proj, attention.v_proj):
        projection.weight[:width] = 0
        projection.bias[:width] = 0
    attention.k_proj.weight[width // 2 - 1] = SINK * found[0]
    attention.q_proj.bias[width // 2 - 1] = SINK
    attention.v_proj.weight[0] = found[0]
    attention.o_proj.weight[:, : 3 * width] = 0
    attention.o_proj.weight[:, 0] = ANSWER_SIZE * random_directions(text.config.hidden_size, 1)[0]


@torch.no_grad()
def begin_anew(
    model: LlavaOnevisionForConditionalGeneration, seed: int
) -> list[torch.nn.Parameter]:
    """Begin anew what is behind these heads: it knows other answers.

    Returns:
        what is trained: it sees one position at a time, since the layers behind attend to nothing.
    """
    text = model.model.language_model
    model.requires_grad_(False)
    trained = [text.norm]
    for number, layer in enumerate(text.layers[ORDER_LAYER:]):
        randomise(layer.mlp, seed + number, text.config.num_hidden_layers)
        layer.post_attention_layernorm.weight.fill_(1.0)
        trained += [layer.mlp, layer.post_attention_layernorm]
        if number:
            layer.self_attn.o_proj.weight.zero_()
    return [p for part in trained for p in part.requires_grad_(True).parameters()]


def layer_inputs(
    model: LlavaOnevisionForConditionalGeneration, batch: Packed, layer: int
) -> Tensor:
    """What a layer's projections see: ``(B, P + V + Q, WIDTH)``."""
    seen: list[Tensor] = []
    norm = model.model.language_model.layers[layer].input_layernorm
    handle = norm.register_forward_hook(lambda _, __, output: seen.append(output))
    packed_logits(model, batch)
    handle.remove()
    return seen[0]


def random_directions(width: int, count: int) -> Tensor:
    """Directions that nothing else uses, ``(count, width)``."""
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, width, generator=generator)


@torch.no_grad()
def collect(
    model: LlavaOnevisionForConditionalGeneration, batches: Iterable[Packed]
) -> tuple[Tensor, Tensor]:
    """Run the layers that stay as they are.

    Returns:
        the stream behind the last of their heads where there is a label, ``(N, WIDTH)``,
        and the labels ``(N,)``.
    """
    text = model.model.language_model
    seen: list[Tensor] = []
    norm = text.layers[ORDER_LAYER].post_attention_layernorm
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    streams, labels = [], []
    for batch in batches:
        packed_logits(model, batch)
        asked = batch.labels != IGNORE
        streams.append(seen.pop()[:, batch.context_positions.shape[-1] :][asked])
        labels.append(batch.labels[asked])
    handle.remove()
    return torch.cat(streams), torch.cat(labels)


def fit(
    model: LlavaOnevisionForConditionalGeneration,
    parameters: list[torch.nn.Parameter],
    streams: Tensor,
    labels: Tensor,
    steps: int,
) -> None:
    """Train what is behind the heads, one position at a time."""
    text = model.model.language_model
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * learning_rate_scale(step, steps, 50, 0.0)
        some = torch.randint(len(streams), (ROWS,))
        stream = streams[some]
        size = stream.pow(2).mean(1, keepdim=True).sqrt()
        stream = stream + NOISE * size * torch.randn_like(stream)
        for layer in text.layers[ORDER_LAYER:]:
            stream = stream + layer.mlp(layer.post_attention_layernorm(stream))
        loss = cross_entropy(model.lm_head(text.norm(stream)), labels[some])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if (step + 1) % 100 == 0:
            print(json.dumps({"step": step + 1, "loss": round(loss.item(), 4)}), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Teach a copy of nano to say when.")
    parser.add_argument("--batches", type=int, default=220)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, default=Path("build/when"), help="weights folder")
    return parser.parse_args()


def main() -> None:
    """Set the heads, train what is behind them, and export."""
    args = parse()
    torch.set_num_threads(args.threads)
    model, _ = new_model(args.seed)
    nano = LlavaOnevisionForConditionalGeneration.from_pretrained(
        weights_path(), dtype=torch.float32
    )
    model.load_state_dict(nano.state_dict())
    model.set_attn_implementation({"text_config": ATTENTION})
    test = held_out(60)
    add_clock(model, test[0])
    add_order_heads(model, test[:8])
    read_clock(model, test[0])
    look_back(model, test[:8])
    batches = WhenBatches(args.seed, "when", 0, args.batches)
    streams, labels = collect(model, (batches[i] for i in range(args.batches)))
    parameters = begin_anew(model, args.seed)
    torch.manual_seed(args.seed)
    fit(model, parameters, streams, labels, args.steps)
    print(json.dumps(accuracy_on(model, {f"{SECONDS} frames": test})()))
    export(model, args.export)


if __name__ == "__main__":
    main()
