"""A prompt whose video grows: what is final is prefilled once, the rest for every look at it."""

from dataclasses import dataclass
from typing import Any

import torch

from sttm.chat.prompt import Prefix
from sttm.methods import STTM
from sttm.models import Positions
from sttm.models.adapter import VideoSpan
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
    """

    prefix: Prefix
    ids: torch.Tensor
    embeddings: torch.Tensor
    span: VideoSpan

    @property
    def head(self) -> int:
        """Tokens in front of the video."""
        return int(self.span.index[0])

    @property
    def tail(self) -> torch.Tensor:
        """``(m, C)`` embeddings of the tokens behind the video."""
        return self.embeddings[int(self.span.index[-1]) + 1 :]

    def grown(self, ids: torch.Tensor, tokens: int) -> torch.Tensor:
        """Return the ids as they are around a video of so many tokens."""
        first, last = int(self.span.index[0]), int(self.span.index[-1])
        return torch.cat([ids[:first], ids[first].expand(tokens), ids[last + 1 :]])


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
        places = torch.arange(opened.head)
        hidden = decoder.feed_lower(opened.embeddings[: opened.head], places)
        decoder.feed_upper(hidden, places)

    @property
    def tokens_out(self) -> int:
        """Merged tokens so far, those included that are not final."""
        pending = self._merger.pending()
        return len(self._memory) + (0 if pending is None else len(pending))

    def push(self, x: torch.Tensor) -> None:
        """Take the embeddings ``(n, C)`` of the next frames, and prefill what is final now."""
        places = self.opened.head + self.tokens_in + torch.arange(len(x))
        hidden = self._decoder.feed_lower(x, places)
        new = self._merger.push(hidden)
        self.tokens_in += len(x)
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

    def finished(self) -> Any:
        """Return a cache that holds the whole prompt, as if the video ended now."""
        decoder, opened = self._decoder.fork(), self.opened
        pending = self._merger.pending()
        if pending is not None:
            self._feed(decoder, pending, len(self._memory))
        places = opened.head + self.tokens_in + torch.arange(len(opened.tail))
        tail = decoder.feed_lower(opened.tail, places)
        removed = self.tokens_in - self.tokens_out
        decoder.feed_upper(tail, places - removed if self._reassigned else places)
        shift = torch.tensor([[removed]], device=tail.device) if self._reassigned else None
        return decoder.whole(removed, len(tail), shift)

    def _feed(self, decoder: SplitDecoder, tokens: StreamTokens, first: int) -> None:
        """Feed merged tokens, of which there are ``first`` in front of these."""
        order = first + torch.arange(len(tokens))
        places = order if self._reassigned else tokens.anchor.cpu()
        decoder.feed_upper(tokens.features, self.opened.head + places)
