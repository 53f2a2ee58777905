"""Many questions about one clip in one sequence, exactly as if each were asked alone.

The row is ``prefix | video | block | block | ...``. A block is one question with its answer (or
two, as a conversation). It sees the prefix, the video and its own past, never another block,
and its positions begin right after the video; so the video is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface, LlavaOnevisionForConditionalGeneration

from training.labels import IGNORE, CellBatch
from training.model import video_tokens

ATTENTION = "nano_packed"


@dataclass(frozen=True)
class Packed:
    """A batch of clips with their questions.

    Attributes:
        frames: uint8 ``(B, T, H, W, 3)``.
        prefix: int64 ``(P,)``, the tokens before the video, the same in all rows.
        context_positions: int64 ``(B, P + V)`` for prefix and video; with M-RoPE ``(3, B, P + V)``,
            and none for the newline token, which is left out then.
        ids: int64 ``(B, Q)``, tokens of all blocks, padded at the end.
        positions: int64 ``(B, Q)`` or ``(3, B, Q)``.
        blocks: int64 ``(B, Q)``, number of the block; -1 is padding.
        labels: int64 ``(B, Q)``, the token that should follow, or IGNORE.
        questions: int64 ``(B, Q)``, number of the question whose answer the label is part of.
        tasks: for every row, the task of each question.
        cells: int64 ``(B, T, 64, 7)``, see ``labels.cell_labels``.
        crowd: crowded frames for the tower alone, or None.
    """

    frames: Tensor
    prefix: Tensor
    context_positions: Tensor
    ids: Tensor
    positions: Tensor
    blocks: Tensor
    labels: Tensor
    questions: Tensor
    tasks: list[list[str]]
    cells: Tensor
    crowd: CellBatch | None = None


def block_mask(blocks: Tensor, context: int) -> Tensor:
    """What block tokens may see: additive float ``(B, 1, Q, context + Q)``, 0 or -inf."""
    count = blocks.shape[1]
    same = blocks[:, :, None] == blocks[:, None, :]
    own = same & torch.ones(count, count, dtype=torch.bool).tril()
    seen = torch.cat([own.new_ones(len(blocks), count, context), own], dim=2)
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))[:, None]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention for a packed row: causal in the context, ``block_mask`` for the blocks.

    Args:
        query: ``(B, heads, L, D)``; key and value: ``(B, kv_heads, L, D)``.
        attention_mask: of ``block_mask``; its third side tells how many block tokens there are.
    Returns: ``(B, L, heads, D)`` and no attention weights.
    """
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    n = query.shape[2] - attention_mask.shape[2]
    context = scaled_dot_product_attention(
        query[:, :, :n], key[:, :, :n], value[:, :, :n], is_causal=True, scale=scaling
    )
    asked = scaled_dot_product_attention(
        query[:, :, n:], key, value, attn_mask=attention_mask.to(query), scale=scaling
    )
    return torch.cat([context, asked], dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, packed_attention)


def packed_logits(
    model: LlavaOnevisionForConditionalGeneration, batch: Packed
) -> tuple[Tensor, Tensor]:
    """Run a packed batch.

    The model must have been switched with
    ``model.set_attn_implementation({"text_config": ATTENTION})``.

    Returns: logits ``(A, vocabulary)`` of the A positions that have a label, in row order, and
        the video tokens ``(B, T * 64, WIDTH)`` without the newline.
    """
    video = video_tokens(model, batch.frames)
    embed = model.get_input_embeddings()
    prefix = embed(batch.prefix).expand(len(video), -1, -1)
    context = batch.context_positions.shape[-1]
    seen = torch.cat([prefix, video], dim=1)[:, :context]
    inputs = torch.cat([seen, embed(batch.ids)], dim=1).to(embed.weight.dtype)
    hidden = model.model.language_model(
        inputs_embeds=inputs,
        attention_mask=block_mask(batch.blocks, context),
        position_ids=torch.cat([batch.context_positions, batch.positions], dim=-1),
        use_cache=False,
    ).last_hidden_state[:, context:]
    return model.lm_head(hidden[batch.labels != IGNORE]), video[:, :-1]


def answer_loss(logits: Tensor, batch: Packed, weights: Mapping[str, float]) -> Tensor:
    """Mean cross entropy over answer tokens, weighted by task (1 where ``weights`` has none)."""
    labels = batch.labels != IGNORE
    rows = torch.arange(len(labels))[:, None].expand_as(labels)[labels]
    owners = zip(rows.tolist(), batch.questions[labels].tolist(), strict=True)
    weight = torch.tensor([weights.get(batch.tasks[row][number], 1.0) for row, number in owners])
    loss = cross_entropy(logits, batch.labels[labels], reduction="none")
    return (loss * weight).sum() / weight.sum()


def answers_right(logits: Tensor, batch: Packed) -> list[tuple[str, bool]]:
    """For each question its task and whether greedy decoding gives the whole answer."""
    labels = batch.labels != IGNORE
    right = logits.argmax(-1) == batch.labels[labels]
    rows = torch.arange(len(labels))[:, None].expand_as(labels)[labels]
    numbers = batch.questions[labels]
    found: dict[tuple[int, int], bool] = {}
    for row, number, ok in zip(rows.tolist(), numbers.tolist(), right.tolist(), strict=True):
        found[row, number] = found.get((row, number), True) and ok
    return [(batch.tasks[row][number], ok) for (row, number), ok in found.items()]
