"""Heads that look at the start or the end of a clip, for questions about its background and pan.

Without them the decoder learned within a hundred steps which background a clip has, and after four
hundred it still chose at random between the one at the start and the one at the end. As in
``initial.py`` this is only how the heads begin; every weight is trained afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from sttm.nano.backdrop import BACKDROP_COLOURS, PATTERNS
from training.labels import BACKGROUND, IGNORE, LANDMARK, TEXTURE
from training.model import GRID
from training.packing import Packed, packed_logits

CARRY_LAYER = 2  # its second group, and all groups above, could be switched off without any loss
LAYER = 3
TIME_PAIR = 10  # a rotary pair that turns by 0.7 rad in 4096 tokens
TIME_BIAS = 22.0
PRESENCE = 6.0
WORD_GAIN = 2.0  # of the part by which "start", "end" and "pan" are made unlike all other words
CARRY_GAIN = 2.0
PUSH = 0.4  # towards the word for a background, in units of the root mean square of the stream
PAN_PUSH = 1.0  # by a move of half a frame, in units of the root mean square of the stream
RIDGE = 1e-3
RARE_WEIGHT = 10.0  # of the inputs where there is something to find


@torch.no_grad()
def add_context_heads(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batches: list[Packed],
) -> None:
    """Set the second key-value group of one layer.

    The first head looks early or late, as the question says, and copies what the background is
    like. The second looks for late landmarks, the third for early ones, when the question is
    about the pan; the difference of their places goes to the words for the directions.

    Args:
        batches: packed questions about scenes, on which the inputs of the layer are measured.
    """
    _carry_words(model, tokenizer, batches)
    text = model.model.language_model
    attention = text.layers[LAYER].self_attn
    width = text.config.hidden_size // text.config.num_attention_heads
    half, spot = width // 2, width // 2 - 1
    video, labels, asking, wanted, size = _measure(model, tokenizer, batches)
    known = labels[:, BACKGROUND] != IGNORE
    names = (*BACKDROP_COLOURS, *PATTERNS)
    classes = torch.cat([one_hot(labels[known][:, BACKGROUND], 6), _texture(labels[known])], 1)
    facts = regress(video[known], classes)
    place = torch.arange(len(labels)) % (GRID * GRID)
    marked = labels[:, LANDMARK] == 1
    where = torch.stack([place % GRID, place // GRID], 1) / (GRID / 2) - 0.875
    x_and_y = regress(video, where * marked[:, None])
    landmark = regress(video[labels[:, LANDMARK] != IGNORE], marked[labels[:, LANDMARK] != IGNORE])
    late, pan = regress(asking, wanted).unbind(0)
    key, value = attention.k_proj, attention.v_proj
    own = slice(width, 2 * width)  # of the second group
    for projection in (key, value):
        projection.weight[own] = 0
        projection.bias[own] = 0
    key.bias[width + TIME_PAIR] = TIME_BIAS
    key.weight[width + spot] = PRESENCE * landmark[0]
    count = len(facts)
    value.weight[width : width + count] = facts
    value.weight[width + count : width + count + 2] = x_and_y
    query, output = attention.q_proj, attention.o_proj
    query.weight[3 * width :] = 0
    query.bias[3 * width :] = 0
    output.weight[:, 3 * width :] = 0
    query.weight[3 * width + TIME_PAIR + half] = TIME_BIAS * late
    embedding = model.get_input_embeddings().weight
    for i, name in enumerate(names):
        towards = embedding[tokenizer.convert_tokens_to_ids(name)]
        output.weight[:, 3 * width + i] = PUSH * size * towards / towards.pow(2).mean().sqrt()
    for head, time in ((4, 1.0), (5, -1.0)):
        first = head * width
        query.weight[first + TIME_PAIR + half] = time * TIME_BIAS * pan
        query.weight[first + spot] = 2 * PRESENCE * pan
        for axis, (ahead, back) in enumerate((("left", "right"), ("up", "down"))):
            one, other = (tokenizer.convert_tokens_to_ids(word) for word in (ahead, back))
            towards = embedding[one] - embedding[other]
            towards = towards / towards.pow(2).mean().sqrt()
            output.weight[:, first + count + axis] = time * PAN_PUSH * size * towards


def hold_context_heads(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Keep what these heads look for as it is: training undid it within fifty steps."""

    def held(rows: slice) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            gradient = gradient.clone()
            gradient[rows] = 0
            return gradient

        return hook

    text = model.model.language_model
    width = text.config.hidden_size // text.config.num_attention_heads
    for number in (CARRY_LAYER, LAYER):
        attention = text.layers[number].self_attn
        for projection, first in ((attention.k_proj, width), (attention.q_proj, 3 * width)):
            projection.weight.register_hook(held(slice(first, None)))
            projection.bias.register_hook(held(slice(first, None)))
    text.layers[CARRY_LAYER].self_attn.v_proj.weight.register_hook(held(slice(width, None)))


def _carry_words(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batches: list[Packed],
) -> None:
    """Let a head of an earlier layer carry "start", "end" and "pan" to the position that answers.

    The heads that carry names of colours and digits know nothing of other words.
    """
    text = model.model.language_model
    attention = text.layers[CARRY_LAYER].self_attn
    width = text.config.hidden_size // text.config.num_attention_heads
    spot = width // 2 - 1
    seen: list[tuple[Tensor, Tensor]] = []
    norm = text.layers[CARRY_LAYER].input_layernorm
    handle = norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    words = [tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in ("start", "end", "pan")]
    embedding = model.get_input_embeddings().weight
    marks = torch.randn(len(words), embedding.shape[1], generator=torch.Generator().manual_seed(0))
    marks *= WORD_GAIN * embedding.pow(2).mean().sqrt()
    embedding[words] += marks
    inputs, meant, stream = [], [], []
    for batch in batches:
        packed_logits(model, batch)
        before, after = seen.pop()
        count = batch.ids.shape[1]
        real = batch.blocks >= 0
        stream.append(before[:, -count:][real])
        inputs += [after[:, -count:][real], after[:, :-count:7].flatten(0, 1)]
        meant += [batch.ids[real], inputs[-1].new_full((len(inputs[-1]),), -1).long()]
    handle.remove()
    ids, size = torch.cat(meant), float(torch.cat(stream).pow(2).mean().sqrt())
    start, end, pan = (ids == word for word in words)
    targets = torch.stack([end.float() - start.float(), pan.float()], 1)
    found = (start | end | pan).float()
    detector, (late, moves) = (
        regress(torch.cat(inputs), found),
        regress(torch.cat(inputs), targets),
    )
    key, value = attention.k_proj, attention.v_proj
    own = slice(width, 2 * width)
    for projection in (key, value):
        projection.weight[own] = 0
        projection.bias[own] = 0
    key.weight[width + spot] = 2 * PRESENCE * detector[0]
    value.weight[width], value.weight[width + 1] = late, moves
    query, output = attention.q_proj, attention.o_proj
    query.weight[3 * width :] = 0
    query.bias[3 * width :] = 0
    query.bias[3 * width + spot] = 2 * PRESENCE
    output.weight[:, 3 * width :] = 0
    carried = torch.randn(2, embedding.shape[1], generator=torch.Generator().manual_seed(1))
    output.weight[:, 3 * width : 3 * width + 2] = CARRY_GAIN * size * carried.T


def _measure(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batches: list[Packed],
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """What the layer sees.

    Returns: its normed inputs at video tokens ``(N, WIDTH)`` and their labels ``(N, 7)``; at the
        positions that answer ``(A, WIDTH)`` and what those should look for ``(A, 2)``: time (-1
        early, 1 late, 0 neither) and whether the question is about the pan; and the root mean
        square of the residual stream at those positions.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    norm = model.model.language_model.layers[LAYER].input_layernorm
    handle = norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    start, end = (tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in ("start", "end"))
    pan = tokenizer.convert_tokens_to_ids("Ġpan")
    video, labels, asking, wanted, sizes = [], [], [], [], []
    for batch in batches:
        packed_logits(model, batch)
        stream, inputs = seen.pop()
        before, context = len(batch.prefix), batch.context_positions.shape[1]
        video.append(inputs[:, before : context - 1].flatten(0, 1))
        labels.append(batch.cells.flatten(0, 2))
        for row, column in (batch.labels != IGNORE).nonzero().tolist():
            block = batch.blocks[row] == batch.blocks[row, column]
            words = batch.ids[row][block].tolist()
            asking.append(inputs[row, context + column])
            wanted.append([float(end in words) - float(start in words), float(pan in words)])
            sizes.append(stream[row, context + column].pow(2).mean())
    handle.remove()
    size = math.sqrt(float(torch.stack(sizes).mean()))
    return torch.cat(video), torch.cat(labels), torch.stack(asking), torch.tensor(wanted), size


def _texture(labels: Tensor) -> Tensor:
    """Which pattern, ``(N, 5)``: nothing where it is not known."""
    known = labels[:, TEXTURE].clamp(min=0)
    return one_hot(known, 5) * (labels[:, TEXTURE, None] >= 0)


def regress(inputs: Tensor, targets: Tensor) -> Tensor:
    """Ridge regression without a constant: ``(targets, WIDTH)``."""
    wanted = targets.float().reshape(len(inputs), -1)
    weight = torch.where(wanted.any(1, keepdim=True), RARE_WEIGHT, 1.0)
    gram = inputs.T @ (weight * inputs)
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    solution: Tensor = torch.linalg.solve(gram + ridge, inputs.T @ (weight * wanted))
    error = weight * (inputs @ solution - wanted).pow(2)
    residue = error.sum(0) / (weight * wanted.pow(2)).sum(0)
    print(
        "context heads: unexplained variance", [round(r, 3) for r in residue.tolist()], flush=True
    )
    return solution.T
