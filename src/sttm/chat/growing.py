"""A prompt whose video grows: what is final is prefilled once, the rest for every look at it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sttm.chat.prompt import Prefix
from sttm.methods import STTM
from sttm.models import Positions
from sttm.models.growing_positions import GrowingPositions
from sttm.models.halves import EmbeddedPrompt, FedTokens, SplitDecoder
from sttm.models.transformers_api import INPUT_IDS
from sttm.piecewise import merger_of
from sttm.streaming import Rows, StreamMemory, StreamTokens


@dataclass(frozen=True, eq=False)
class OpenedPrompt:
    """A prompt around some frames of a video, up to where questions begin.

    Args:
        prefix: what all prompts about these frames begin with.
        inputs: the model's arguments, without pixels.
        embedded: what the decoder is fed.
    """

    prefix: Prefix
    inputs: Mapping[str, torch.Tensor]
    embedded: EmbeddedPrompt

    @property
    def tail(self) -> torch.Tensor:
        """``(m, C)`` embeddings of the tokens behind the video."""
        return self.embedded.embeddings[self.embedded.end :]


@dataclass(frozen=True, eq=False)
class TextRows(Rows):
    """The text and the newline tokens between the video tokens, in the order of the prompt.

    Args:
        place: ``(n,)`` int64, ascending: places in the sequence.
        step: ``(n,)`` int64, the time step that each stands in front of, or in.
        hidden: ``(n, C)`` in front of the layers behind the reduction.
        positions: ``(n, axes)`` int64.
    """

    place: torch.Tensor
    step: torch.Tensor
    hidden: torch.Tensor
    positions: torch.Tensor


class GrowingPrompt:
    """A prompt in two caches, which grow with its video.

    What stands between video tokens is prefilled where it stands. With a cap, the text of a time
    step of which no token is left is forgotten with it, where no layer in front of the reduction
    holds it anyway.

    Args:
        opened: around the first frames, which are not pushed yet.
        layout: of that prompt.
        decoder: with empty caches.
        method: with thresholds; its ``max_tokens`` caps what the layers behind the reduction hold.
        window: see `sttm.StreamingSTTM`.
        positions: the position policy.
        frames: time steps that will come, if that is known.

    Attributes:
        opened: around the latest frames.
        layout: of the prompt so far.
        tokens_in: video tokens so far.
        grid: of the first frames.
    """

    def __init__(
        self,
        opened: OpenedPrompt,
        layout: GrowingPositions,
        decoder: SplitDecoder,
        method: STTM,
        window: int | None,
        positions: Positions,
        frames: int | None = None,
    ) -> None:
        self.opened, self.layout = opened, layout
        self.tokens_in = 0
        self._decoder, self._reassigned = decoder, positions == "reassigned"
        self.grid = grid = opened.embedded.span.video.grid
        self._merger = merger_of(method, grid.height, grid.width, window, frames)
        most = None if method.max_tokens is None else int(method.max_tokens)
        self._memory = StreamMemory(most, grid.height, grid.width)
        head, places = opened.embedded.embeddings[: layout.head], layout.in_front
        none = torch.empty(0, dtype=torch.long)
        self._text = TextRows(none, none, head[:0], places.T[:0])
        self._gone = none.bool()  # of each step, whether its text is forgotten
        fed = FedTokens(head, torch.zeros(len(head), dtype=torch.bool))
        decoder.feed_upper(decoder.feed_lower(fed, places), places)

    def fork(self) -> "GrowingPrompt":
        """Return the same, to grow by itself; what it holds is shared."""
        new = copy.copy(self)
        new._decoder, new.layout = self._decoder.fork(), copy.copy(self.layout)
        new._merger, new._memory = copy.copy(self._merger), copy.copy(self._memory)
        return new

    @property
    def steps(self) -> int:
        """Time steps so far."""
        return len(self.layout.texts)

    @property
    def tokens_out(self) -> int:
        """Merged tokens so far, those included that are not final."""
        pending = self._merger.pending()
        return len(self._memory) + (0 if pending is None else len(pending))

    @property
    def ids(self) -> torch.Tensor:
        """``(n,)`` int64 on the CPU, of the whole prompt; forgotten text is none of it."""
        return self.layout.ids(self.tail_ids, self._gone)

    @property
    def tail_ids(self) -> torch.Tensor:
        """``(m,)`` int64 on the CPU, of what is behind the video."""
        return self.opened.inputs[INPUT_IDS][0, self.opened.embedded.end :].cpu()

    @property
    def prefix(self) -> Prefix:
        """What all prompts about the video begin with."""
        prefix, end = self.opened.prefix, self.opened.embedded.end
        return replace(prefix, head=self.layout.ids(prefix.head[end:], self._gone))

    def push(
        self, opened: OpenedPrompt, texts: Sequence[torch.Tensor], embedded: torch.Tensor
    ) -> None:
        """Take the next frames, and prefill what is final now.

        Args:
            opened: around the frames.
            texts: ids in front of each step.
            embedded: ``(n, C)`` of all of them.
        """
        self.opened = opened
        rows = self.layout.push(texts, opened.inputs, opened.embedded.end)
        blocks = opened.embedded.blocks().flatten(0, 1)
        hidden = blocks.new_empty(len(rows.step), blocks.shape[1])
        hidden[rows.inside < 0], hidden[rows.inside >= 0] = embedded.to(hidden), blocks
        fed = FedTokens(hidden, rows.is_video, opened.embedded.levels)
        fed = self._decoder.feed_lower(fed, rows.positions)
        self.tokens_in += int(rows.is_video.sum())
        text = ~rows.is_video
        new = TextRows(
            rows.place[text], rows.step[text], fed.hidden[text], rows.positions[:, text].T
        )
        self._text = TextRows.join(self._text, new)
        self._gone = torch.cat([self._gone, torch.zeros(len(texts), dtype=torch.bool)])
        along = torch.cat(fed.levels, 1) if fed.levels else None
        final = self._merger.push(fed.hidden[rows.is_video], along)
        if final is not None:
            self._emit(final)

    def _emit(self, new: StreamTokens) -> None:
        """Remember tokens that are final now, and prefill what that changes."""
        pending, most = self._merger.pending(), self._memory.max_tokens
        if most is not None and pending is not None and len(pending) > most // 2:
            rest = self._merger.flush()  # too many to wait: they are final now
            new, pending = (new if rest is None else StreamTokens.join(new, rest)), None
        before = len(self._memory)
        plan = self._memory.add(new, 0 if pending is None else len(pending))
        kept, tokens = min(before, plan.num_untouched), self._memory.tokens
        assert tokens is not None
        texts = self._texts_before(tokens[:kept])
        if kept < before and not self._decoder.layer:
            self._forget_texts(texts, tokens)
        self._decoder.forget_upper(self.layout.head + kept + texts)
        self._feed(
            self._decoder,
            tokens[kept:],
            self._text[texts : self._texts_before(tokens)],
            kept + texts,
        )

    def finished(self) -> tuple[Any, int]:
        """Return a cache of the whole prompt, as if the video ended now, and the next position.

        Raises:
            IncompatibleTransformersError: the model places a video otherwise than it was fed.
        """
        decoder, opened, held = self._decoder.fork(), self.opened, self._memory.tokens
        pending = self._merger.pending()
        assert pending is not None
        texts = 0 if held is None else self._texts_before(held)
        self._feed(decoder, pending, self._text[texts:], len(self._memory) + texts)
        whole = self.layout.check()
        tail = FedTokens(opened.tail, torch.zeros(len(opened.tail), dtype=torch.bool))
        places = whole[:, whole.shape[1] - len(opened.tail) :]
        tail = decoder.feed_lower(tail, places)
        moved, entries = 0, self.tokens_out + len(self._text)
        if self._reassigned:  # the text moves up to the video's last number
            behind = int(places[0, 0] if len(opened.tail) else whole.max() + 1)
            moved = behind - self.layout.head - entries
        decoder.feed_upper(tail, places - moved)
        shift = torch.tensor([[moved]], device=tail.hidden.device) if self._reassigned else None
        removed = self.tokens_in - self.tokens_out
        behind = len(opened.tail) + self.layout.trailing
        return decoder.whole(removed, behind, shift), int(whole[:, -1].max()) + 1

    def _texts_before(self, tokens: StreamTokens) -> int:
        """Count the rows of text in front of the last of some tokens."""
        if not len(tokens):
            return 0
        last = self.layout.video(tokens.anchor[-1:].cpu())[1]
        return int(torch.searchsorted(self._text.place, last))

    def _forget_texts(self, first: int, tokens: StreamTokens) -> None:
        """Forget text from a row on, of steps in front of the last token of which none is left."""
        left = torch.unique(tokens.anchor.cpu() // self.grid.tokens_per_frame)
        text = self._text
        gone = ~torch.isin(text.step, left) & (text.step < left[-1])
        gone[:first] = False
        self._gone = self._gone.index_fill(0, text.step[gone], True)
        self._text = text[~gone]

    def _feed(
        self, decoder: SplitDecoder, tokens: StreamTokens, text: TextRows, first: int
    ) -> None:
        """Feed merged tokens and the text among them, behind ``first`` entries of the video."""
        places, at = self.layout.video(tokens.anchor.cpu())
        order = torch.cat([text.place, at]).argsort()
        places = torch.cat([text.positions.T, places], 1)[:, order]
        if self._reassigned:
            numbers = self.layout.head + first + torch.arange(len(order))
            places = numbers.expand_as(places)
        hidden = torch.cat([text.hidden, tokens.features])[order.to(tokens.features.device)]
        count = tokens.along.shape[1] // hidden.shape[1]
        levels = tokens.along.chunk(count, 1) if count else ()
        decoder.feed_upper(FedTokens(hidden, order >= len(text), levels), places)
