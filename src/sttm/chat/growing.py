"""A prompt whose video grows: what is final is prefilled once, the rest for every look at it."""

import copy
from dataclasses import dataclass
from typing import Any

import torch

from sttm.chat.prompt import Prefix
from sttm.methods import STTM
from sttm.models import Positions
from sttm.models.adapter import VideoSpan
from sttm.models.growing_positions import GrowingPositions
from sttm.models.halves import SplitDecoder
from sttm.streaming import StreamingSTTM, StreamMemory, StreamTokens


@dataclass(frozen=True, eq=False)
class OpenedPrompt:
    """A prompt around the first frames of a video, up to where questions begin.

    Args:
        prefix: what all prompts about the video begin with.
        ids: ``(n,)`` int64 on the CPU.
        embeddings: ``(n, C)`` that the decoder is fed.
        span: the place of the first frames.
        positions: of the prompt as it grows.
    """

    prefix: Prefix
    ids: torch.Tensor
    embeddings: torch.Tensor
    span: VideoSpan
    positions: GrowingPositions

    @property
    def head(self) -> int:
        """Tokens in front of the video."""
        return self.positions.head

    @property
    def tail(self) -> torch.Tensor:
        """``(m, C)`` embeddings of the tokens behind the video."""
        return self.embeddings[self.positions.end :]


class GrowingPrompt:
    """A prompt in two caches, which grow with its video.

    Args:
        opened: the prompt; its frames are not pushed yet.
        decoder: with empty caches.
        method: with thresholds; its ``max_tokens`` caps what the layers behind the reduction hold.
        window: see `sttm.StreamingSTTM`.
        positions: the position policy.

    Attributes:
        tokens_in: video tokens so far.
    """

    def __init__(
        self,
        opened: OpenedPrompt,
        decoder: SplitDecoder,
        method: STTM,
        window: int | None,
        positions: Positions,
    ) -> None:
        self.opened = opened
        self.tokens_in = 0
        self._decoder, self._reassigned = decoder, positions == "reassigned"
        grid = opened.span.video.grid
        self._merger = StreamingSTTM(method, grid.height, grid.width, window=window)
        most = None if method.max_tokens is None else int(method.max_tokens)
        self._memory = StreamMemory(most, grid.height, grid.width)
        places = opened.positions.whole(1)[:, : opened.head]
        hidden = decoder.feed_lower(opened.embeddings[: opened.head], places)
        decoder.feed_upper(hidden, places)

    def fork(self) -> "GrowingPrompt":
        """Return the same, to grow by itself; what it holds is shared."""
        new = copy.copy(self)
        new._decoder = self._decoder.fork()
        new._merger, new._memory = copy.copy(self._merger), copy.copy(self._memory)
        return new

    @property
    def steps(self) -> int:
        """Time steps so far."""
        return self.tokens_in // self.opened.span.video.grid.tokens_per_frame

    @property
    def tokens_out(self) -> int:
        """Merged tokens so far, those included that are not final."""
        pending = self._merger.pending()
        return len(self._memory) + (0 if pending is None else len(pending))

    def push(self, x: torch.Tensor) -> None:
        """Take the embeddings ``(n, C)`` of the next frames, and prefill what is final now."""
        tokens = self.tokens_in + torch.arange(len(x))
        self.tokens_in += len(x)
        places = self.opened.positions.video(tokens, self.steps)
        hidden = self._decoder.feed_lower(x, places)
        new = self._merger.push(hidden)
        pending, most = self._merger.pending(), self._memory.max_tokens
        if most is not None and pending is not None and len(pending) > most // 2:
            rest = self._merger.flush()  # too many to wait: they are final now
            new, pending = (new if rest is None else StreamTokens.join(new, rest)), None
        before = len(self._memory)
        plan = self._memory.add(new, 0 if pending is None else len(pending))
        kept = min(before, plan.num_untouched)
        self._decoder.forget_upper(self.opened.head + kept)
        assert self._memory.tokens is not None
        self._feed(self._decoder, self._memory.tokens[kept:], kept)

    def finished(self) -> tuple[Any, int]:
        """Return a cache of the whole prompt, as if the video ended now, and the next position.

        Raises:
            IncompatibleTransformersError: the model places a video otherwise than it was fed.
        """
        decoder, opened = self._decoder.fork(), self.opened
        pending = self._merger.pending()
        if pending is not None:
            self._feed(decoder, pending, len(self._memory))
        whole = opened.positions.check(self.steps)
        end = whole.shape[1] - len(opened.tail)
        places = whole[:, end:]
        tail = decoder.feed_lower(opened.tail, places)
        moved = 0
        if self._reassigned:  # the text moves up to the video's last number
            behind = int(places[0, 0] if len(tail) else whole[:, opened.head :].max() + 1)
            moved = behind - opened.head - self.tokens_out
        decoder.feed_upper(tail, places - moved)
        shift = torch.tensor([[moved]], device=tail.device) if self._reassigned else None
        removed = self.tokens_in - self.tokens_out
        return decoder.whole(removed, len(tail), shift), int(whole[:, -1].max()) + 1

    def _feed(self, decoder: SplitDecoder, tokens: StreamTokens, first: int) -> None:
        """Feed merged tokens, of which there are ``first`` in front of these."""
        places = self.opened.positions.video(tokens.anchor.cpu(), self.steps)
        if self._reassigned:
            order = self.opened.head + first + torch.arange(len(tokens))
            places = order.expand_as(places)
        decoder.feed_upper(tokens.features, places)
