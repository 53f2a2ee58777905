"""Answers that grow together, token by token: they may come and go between two steps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicLayer

from sttm.chat.measured import forward_behind
from sttm.chat.prefilled import Conversation, PrefilledVideo
from sttm.chat.prompt import Messages, Turn, openings, render
from sttm.chat.records import fork
from sttm.models import Positions
from sttm.models import transformers_api as api
from sttm.models.cache import ReducedDynamicLayer, ReducedLayer

if TYPE_CHECKING:
    from sttm.chat.session import VideoChat


@dataclass(frozen=True, eq=False)
class FedQuestion:
    """A question that was fed to the model behind its video.

    Args:
        video: that it is about.
        cache: its own; holds video, earlier turns and question.
        ids: ``(n,)`` int64 on the CPU, the whole prompt.
        known: tokens of the prompt that were in the video's cache.
        logits: ``(vocabulary,)`` float32 of the first token of the answer.
    """

    video: PrefilledVideo
    cache: Any
    ids: torch.Tensor
    known: int
    logits: torch.Tensor

    @property
    def kind(self) -> tuple[int | None, Positions]:
        """What the answers of one batch have in common: layer and position policy."""
        return self.video.layer, self.video.positions

    @property
    def stacks(self) -> bool:
        """Whether its cache fits into a batch: one entry per token, and no window or state."""
        return all(type(x) in (DynamicLayer, ReducedDynamicLayer) for x in self.cache.layers)

    @property
    def position(self) -> int:
        """The rotary position of the first token of the answer."""
        return self.video.next_position + len(self.ids) - len(self.video.ids)


def prompt_of(
    video: PrefilledVideo, history: Sequence[tuple[str, str]], question: str
) -> torch.Tensor:
    """Return the ids ``(n,)`` of a whole prompt; see `Prefix.prompt_ids`."""
    return video.prefix.prompt_ids(video.chat.processor, history, question)


def words_of(
    chat: "VideoChat", shown: Sequence[Any], history: Sequence[Turn], question: str
) -> int:
    """Count the tokens of a whole prompt if each video were one.

    Args:
        chat: that watches.
        shown: up to the last video: anything in the place of each, and (question, answer) pairs.
        history: the pairs behind the last video.
        question: the new question.
    """
    messages: Messages = (("",),)
    for _, messages in openings(shown):  # noqa: B007 (the last ones count)
        pass
    text = render(chat.processor, chat.system, messages, history, question)
    return len(chat.processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@torch.no_grad()
def feed(video: PrefilledVideo, ids: torch.Tensor) -> FedQuestion:
    """Feed what a prompt adds to a watched video.

    Calls of ``watch`` and ``ask`` in other threads may run meanwhile.

    Args:
        video: watched before.
        ids: ``(n,)`` the whole prompt, see `prompt_of`.
    """
    cache, known = Conversation(video).resume(ids)
    places = torch.arange(len(ids)) + video.next_position - len(video.ids)
    chat = video.chat
    with chat.reducing(video.layer, video.positions, alone=False):
        logits = forward_behind(
            chat.model,
            chat.adapter,
            cache,
            ids=ids[None],
            positions=places[None],
            known=known,
            last=1,
        )
    return FedQuestion(video, cache, ids, known, logits[0, 0])


class DecodingBatch:
    """Answers about different videos, one new token each per step.

    Every answer is what it would be alone, up to the rounding of batched matrix products: shorter
    caches are padded on the left, where no token looks. All have one layer and position policy;
    what was reduced, and by how much, may differ.
    """

    def __init__(self) -> None:
        self._rows: list[FedQuestion] = []
        self._cache: Any = None
        self._mask = torch.empty(0)  # (B, entries of the first layer) bool
        self._places = torch.empty(0)  # (B, 1) int64, of the next token

    def __len__(self) -> int:
        """Count the answers."""
        return len(self._rows)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values, padding included."""
        layers = [] if self._cache is None else self._cache.layers
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if _grows(layer))

    def takes(self, new: FedQuestion) -> bool:
        """Whether an answer can join the others."""
        return not self._rows or (
            new.kind == self._rows[0].kind and all(row.stacks for row in (*self._rows, new))
        )

    def join(self, new: FedQuestion) -> None:
        """Add an answer as the last row; it takes part from the next step on."""
        assert self.takes(new)
        layer = new.cache.layers[0]
        held = layer.keys.shape[-2] if _grows(layer) else len(new.ids)
        mask = torch.ones(1, held, dtype=torch.bool)
        place = torch.tensor([[new.position]])
        cache = new.cache
        if self._rows:
            cache = stack((self._cache, new.cache))
            mask = torch.cat(_padded((self._mask, mask), dim=1))
            place = torch.cat([self._places, place])
        elif new.stacks:
            cache = stack((new.cache,))
        else:
            mask = torch.ones(1, len(new.ids), dtype=torch.bool)
        self._rows.append(new)
        self._cache, self._mask, self._places = cache, mask, place

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows only, and drop the padding that none of them needs."""
        if len(rows) == len(self._rows):
            return
        self._rows = [self._rows[row] for row in rows]
        if not rows:
            self._cache = None
            return
        index = torch.tensor(rows)
        self._mask, self._places = self._mask[index], self._places[index]
        for layer in self._cache.layers:
            layer.batch_select_indices(index.to(layer.device))
        unused = int(self._mask.any(0).int().argmax())
        self._mask = self._mask[:, unused:]
        _trim(self._cache, unused)

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Feed one token to every row.

        Args:
            tokens: the latest token of each row's answer.

        Returns:
            ``(B, vocabulary)`` float32 logits of the next.
        """
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], 1)
        video = self._rows[0].video
        chat, device = video.chat, video.chat.model.device
        ids, mask = torch.tensor(tokens)[:, None].to(device), self._mask.long().to(device)
        with chat.reducing(video.layer, video.positions, alone=False):
            out = chat.model(
                **api.prompt_arguments(ids, mask, self._places.to(device)),
                **api.cache_argument(chat.model, self._cache),
                use_cache=True,
                logits_to_keep=1,
            )
        self._places = self._places + 1
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits


def stack(caches: Sequence[Any]) -> Any:
    """Put caches of several rows each into one, padded on the left.

    Layers below the reduction are padded to the longest original, those above it to the longest
    reduced; the difference counts as removed for every row.

    Args:
        caches: growing layers only, reduced in front of the same layer; left as they are.
    """
    new = fork(caches[0])
    for index, layer in enumerate(new.layers):
        parts = [cache.layers[index] for cache in caches]
        layer.keys = torch.cat(_padded([part.keys for part in parts], dim=-2))
        layer.values = torch.cat(_padded([part.values for part in parts], dim=-2))
        if _is_reduced(layer):
            layer.valid = torch.cat(_padded([_valid(part) for part in parts], dim=1))
            shifts = [part.shift for part in parts]
            layer.shift = None if shifts[0] is None else torch.cat(shifts)
    _count_removed(new)
    return new


def _grows(layer: Any) -> bool:
    return getattr(layer, "keys", None) is not None  # layers with a state have none


def _is_reduced(layer: Any) -> bool:
    return isinstance(layer, ReducedLayer) and layer.active


def _valid(layer: Any) -> torch.Tensor:
    shape = len(layer.keys), layer.keys.shape[-2]
    valid: torch.Tensor | None = layer.valid
    return layer.keys.new_ones(shape, dtype=torch.bool) if valid is None else valid


def _padded(parts: Iterable[torch.Tensor], dim: int) -> list[torch.Tensor]:
    """Pad tensors with zeros in front, along one dimension, to the longest."""
    parts = list(parts)
    longest = max(part.shape[dim] for part in parts)
    padded = []
    for part in parts:
        shape = list(part.shape)
        shape[dim] = longest - shape[dim]
        padded.append(torch.cat([part.new_zeros(shape), part], dim))
    return padded


def _trim(cache: Any, below: int) -> None:
    """Drop leading padding: ``below`` entries of layers below, what no row needs of the others."""
    unused = None
    for layer in cache.layers:
        cut = below
        if _is_reduced(layer):
            if unused is None:
                unused = int(_valid(layer).any(0).int().argmax())
            cut = unused
            layer.valid = _valid(layer)[:, cut:]
        if cut and _grows(layer):
            layer.keys, layer.values = layer.keys[..., cut:, :], layer.values[..., cut:, :]
    _count_removed(cache)


def _count_removed(cache: Any) -> None:
    """Let every reduced layer count as many tokens as the first layer."""
    if not all(_grows(layer) for layer in cache.layers):
        return
    seen = cache.layers[0].keys.shape[-2]
    for layer in cache.layers:
        if _is_reduced(layer):
            layer.removed = seen - layer.keys.shape[-2]
