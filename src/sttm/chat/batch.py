"""Many questions about one video: together on one prefill, or each with a prefill of its own."""

from collections.abc import Sequence
from typing import Any

import torch

from sttm.chat.measured import generate_behind, sequences
from sttm.chat.prefilled import PrefilledVideo
from sttm.chat.prompt import common_length
from sttm.chat.records import Encoded, fork
from sttm.chat.session import VideoChat
from sttm.models.transformers_api import ATTENTION_MASK, features_argument


@torch.no_grad()
def ask_alone(chat: VideoChat, encoded: Encoded, question: str, **generate: Any) -> torch.Tensor:
    """Answer a question on a prefill of its own, for whatever is attached to the model.

    Args:
        chat: that encoded the video.
        encoded: the video.
        question: the only one.
        **generate: options of ``generate()``.

    Returns:
        ``(n,)`` int64, the ids of the answer.
    """
    ids = encoded.prefix.prompt_ids(chat.processor, [], question)
    out: torch.Tensor = chat.model.generate(
        **extend_inputs(encoded.inputs, ids),
        **features_argument(chat.adapter.modality, encoded.features),
        **generate,
    )
    return out[0, len(ids) :]


def ask_many(video: PrefilledVideo, questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
    """Answer several questions at once, each in a row of its own on a copy of the prefill.

    The same as asking one by one, up to the rounding of batched matrix products: shorter questions
    are padded between the video and themselves, where no token looks.

    Args:
        video: the video; its cache is copied and stays as it is.
        questions: the questions, at least one.
        max_new_tokens: of an answer; greedy.

    Returns:
        the answers, in the order of the questions.
    """
    chat = video.chat
    prompts = [video.prefix.prompt_ids(chat.processor, [], text) for text in questions]
    known = min(common_length(video.ids, ids) for ids in prompts)
    if known < len(video.ids) or len(prompts) == 1:
        # The tokenizer joined the prefill's last token with a question: not one prefix for all.
        return [video.ask(text, max_new_tokens=max_new_tokens).text for text in questions]
    width = max(len(ids) for ids in prompts)
    ids = torch.stack([_fit(prompt, known, width) for prompt in prompts])
    mask = torch.stack([_fit(torch.ones_like(prompt), known, width) for prompt in prompts])
    offset = video.next_position - known
    places = [_fit((torch.arange(len(p)) + offset).clamp(min=0), known, width) for p in prompts]
    cache = fork(video.cache)
    cache.reorder_cache(torch.zeros(len(prompts), dtype=torch.long))
    with chat.reducing(video.layer, video.positions):
        out, _ = generate_behind(
            chat.model,
            chat.adapter,
            cache,
            ids=ids,
            mask=mask,
            positions=torch.stack(places),
            known=known,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    return [decode(chat.processor, row[width:]) for row in sequences(out)]


def _fit(row: torch.Tensor, known: int, width: int) -> torch.Tensor:
    """Pad ``(n,)`` with zeros to ``(width,)``, behind its first ``known`` entries."""
    return torch.cat([row[:known], row.new_zeros(width - len(row)), row[known:]])


def extend_inputs(inputs: dict[str, torch.Tensor], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Extend the inputs of a prefix to a whole prompt: what follows the prefix is plain text.

    Args:
        inputs: of the processor, for a prefix of ``m`` tokens; those of shape ``(1, m)`` grow.
        ids: ``(n,)`` int64, the whole prompt.

    Returns:
        the inputs for all ``n`` tokens.
    """
    device, length = inputs["input_ids"].device, inputs["input_ids"].shape[1]
    longer: dict[str, torch.Tensor] = {}
    for name, value in inputs.items():
        if value.ndim == 2 and value.shape[1] == length:
            fill = int(name == ATTENTION_MASK)
            extra = value.new_full((1, len(ids) - length), fill)
            longer[name] = torch.cat([value, extra], 1)
        else:
            longer[name] = value
    longer["input_ids"] = ids[None].to(device)
    return longer


def decode(processor: Any, ids: torch.Tensor) -> str:
    """Turn the ids ``(n,)`` of an answer into its text."""
    return str(processor.tokenizer.decode(ids.cpu(), skip_special_tokens=True)).strip()
