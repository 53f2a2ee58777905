"""Ways to run a model in the tests."""

from dataclasses import dataclass
from typing import Any

import torch

from .families import Inputs
from .names import cache_of


@dataclass(frozen=True)
class Answer:
    """What a greedy ``generate`` gave.

    Args:
        tokens: ``(rows, steps)`` the new tokens.
        logits: ``(rows, steps, vocabulary)``.
        cache: the KV cache afterwards.
    """

    tokens: torch.Tensor
    logits: torch.Tensor
    cache: Any

    def row(self, index: int) -> "Answer":
        """One row of the batch."""
        return Answer(self.tokens[index : index + 1], self.logits[index : index + 1], self.cache)


def greedy(model: Any, inputs: Inputs, steps: int = 6, **more: Any) -> Answer:
    """Decode greedily with the cache; with ``more`` arguments for ``generate``."""
    out = model.generate(
        **inputs.tensors,
        **{"do_sample": False, "max_new_tokens": steps, **more},
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[:, -steps:]
    return Answer(tokens, torch.stack(out.logits, 1), cache_of(out))


def assert_same(got: Answer, wanted: Answer, atol: float) -> None:
    """Same tokens, logits within ``atol``."""
    torch.testing.assert_close(got.logits, wanted.logits, atol=atol, rtol=0)
    assert got.tokens.tolist() == wanted.tokens.tolist()


def tolerance(family: str, attention: str = "sdpa") -> float:
    """How far logits of about 1.5 may be apart where two ways of computing meet.

    Recurrent layers compute a chunk and single steps by different formulas.
    """
    return 5e-3 if family == "qwen3_5" else 2e-4
