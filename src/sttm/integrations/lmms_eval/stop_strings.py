"""End an answer at the first of some stop strings."""

from collections.abc import Sequence
from typing import Any

import torch

_BYTES_PER_CHARACTER = 4


class StopStrings:
    """Stops a greedy or sampled generation of one row once a stop string has appeared.

    Args:
        tokenizer: the model's.
        until: the stop strings.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._until = tuple(until)
        # No token is shorter than a byte: the text is in the last so many, if it has just ended.
        self._window = 1 + _BYTES_PER_CHARACTER * max(map(len, until), default=0)
        self._prompt: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows of ``(rows, tokens)`` have ended; called after every token."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1] - 1
        first = max(self._prompt, input_ids.shape[1] - self._window)
        ended = [self._has_one(row) for row in input_ids[:, first:]]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

    def _has_one(self, ids: torch.Tensor) -> bool:
        text = self._tokenizer.decode(ids)
        return any(end in text for end in self._until)


def cut_at(text: str, until: Sequence[str]) -> str:
    """Drop the first stop string in a text, and what follows it."""
    ends = [place for end in until if (place := text.find(end)) >= 0]
    return text[: min(ends, default=len(text))]
