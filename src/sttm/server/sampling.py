"""From logits to text: choosing tokens, and knowing where an answer ends."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

_BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class SamplingParams:
    """How an answer is chosen.

    Args:
        max_tokens: of the answer.
        temperature: 0 takes the likeliest token.
        top_p: the likeliest tokens are drawn from whose probabilities reach this sum.
        seed: makes the draws repeatable; None draws anew.
        stop: texts at which the answer ends, themselves left out.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class TokenSampler:
    """Chooses the tokens of one answer.

    Args:
        params: how.
        penalty: the model's own repetition penalty; 1.0 for none.
        ids: ``(n,)`` int64 of the prompt, which the penalty counts, too.
    """

    def __init__(self, params: SamplingParams, penalty: float, ids: torch.Tensor) -> None:
        self._params = params
        self._penalty = penalty
        self._seen = torch.unique(ids) if penalty != 1.0 else ids[:0]
        self._draws = torch.Generator()
        if params.temperature and params.seed is not None:
            self._draws.manual_seed(params.seed % 2**63)
        elif params.temperature:
            self._draws.seed()

    def choose(self, logits: torch.Tensor) -> int:
        """Choose the next token from ``(vocabulary,)`` float32 logits."""
        if self._penalty != 1.0:
            seen = self._seen.to(logits.device)
            found = logits[seen]
            found = torch.where(found < 0, found * self._penalty, found / self._penalty)
            logits = logits.index_copy(0, seen, found)
        token = int(logits.argmax()) if not self._params.temperature else self._draw(logits)
        if self._penalty != 1.0:
            self._seen = torch.unique(torch.cat([self._seen, torch.tensor([token])]))
        return token

    def _draw(self, logits: torch.Tensor) -> int:
        ordered, order = (logits.cpu() / self._params.temperature).softmax(-1).sort(descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered[before >= self._params.top_p] = 0  # never the first
        return int(order[torch.multinomial(ordered, 1, generator=self._draws)])


class TextStream:
    """Turns the tokens of one answer into text that never has to be taken back.

    Args:
        tokenizer: of the model.
        stop: texts at which the answer ends.

    Attributes:
        ids: the tokens so far.
        sent: the text so far.
        stopped: whether one of ``stop`` has come.
    """

    def __init__(self, tokenizer: Any, stop: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self.ids: list[int] = []
        self.sent = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; return the text that is now certain and was not before.

        Half a character, white space that may be the last, and what may become a stop text wait
        for the tokens behind them.
        """
        self.ids.append(token)
        text = self._text()
        if not self.stopped:
            text = text.rstrip(_BROKEN)
            held = max((_overlap(text, stop) for stop in self._stop), default=0)
            text = text[: len(text) - held]
        return self._send(text.rstrip())

    def finish(self) -> str:
        """Return the text that waited for more."""
        return self._send(self._text().rstrip())

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self.ids, skip_special_tokens=True).lstrip()
        ends = [end for end in map(text.find, self._stop) if end >= 0]
        self.stopped = bool(ends)
        return text[: min(ends)] if ends else text

    def _send(self, text: str) -> str:
        if not text.startswith(self.sent):
            return ""
        new, self.sent = text[len(self.sent) :], text
        return new


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of a text that may be the beginning of a stop text."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
