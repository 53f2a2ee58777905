"""What FlashAttention is given, with a stand-in for its kernel that runs on the CPU.

The real one reads gaps in ``position_ids`` as borders between packed prompts, and takes no mask but
a 2-D one of the padding.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sttm import attach

from .families import Family, shared_model, shared_out
from .layouts import Row, Text, Video
from .methods import ContentMerge
from .running import assert_same, greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

NAME = "flash_attention_2"
LAYER = 1
ROWS: tuple[Row, ...] = (
    (Text(4), Video(4), Text(5, seed=1)),
    (Text(9, seed=2), Video(4, seed=3), Text(12, seed=4)),
)
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "cu_seqlens")


def flash_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float = 1.0,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as FlashAttention does, ``(B, heads, tokens, size)``; refuse what it would misread."""
    (rows, heads, new, _), held = query.shape, key.shape[2]
    assert not [name for name in PACKED if kwargs.get(name) is not None]
    if position_ids is not None and rows == 1 and new > 1:
        assert position_ids.shape == (1, new)
        assert bool((position_ids.diff() == 1).all()), "these are taken for packed prompts"
    seen = torch.ones(new, held, dtype=torch.bool).tril(held - new)[None, None]
    if attention_mask is not None:
        assert attention_mask.shape == (rows, held)
        seen = seen & attention_mask[:, None, None].bool()
    key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
    score = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, -1e9)
    return (score.softmax(-1) @ value).transpose(1, 2), None


@pytest.fixture(autouse=True)
def _kernel() -> Iterator[None]:
    kernel = ALL_ATTENTION_FUNCTIONS[NAME]
    ALL_ATTENTION_FUNCTIONS.register(NAME, flash_attention)
    yield
    ALL_ATTENTION_FUNCTIONS.register(NAME, kernel)


@pytest.mark.parametrize("rows", [1, 2])
@shared_out("positions", ["survived", "reassigned", "merged"])
def test_layers_get_what_flash_attention_reads(family: Family, positions: str, rows: int) -> None:
    inputs, model = family.make_inputs(*ROWS[:rows]), family.make_model()
    with attach(shared_model(family.name), ContentMerge(), layer=LAYER, positions=positions):
        wanted = greedy(shared_model(family.name), inputs, 4)
    model.config.get_text_config()._attn_implementation = NAME
    calls: list[tuple[torch.Tensor, dict[str, Any]]] = []
    with attach(model, ContentMerge(), layer=LAYER, positions=positions) as attachment:
        for layer in model.get_decoder().layers[LAYER:]:
            layer.register_forward_pre_hook(
                lambda module, args, kwargs: calls.append((args[0], kwargs)), with_kwargs=True
            )
        got = greedy(model, inputs, 4)
        counts = [report.tokens_out - report.tokens_in for report in attachment.reports]
    assert_same(got, wanted, tolerance(family.name))
    prefill = calls[: len(model.get_decoder().layers) - LAYER]
    for hidden, kwargs in prefill:
        length = hidden.shape[1]
        assert length == inputs.length + max(counts) if rows == 1 else length < inputs.length
        ids, mask = kwargs.get("position_ids"), kwargs["attention_mask"]
        assert ids is None or ids.tolist() == [list(range(length))]
        assert mask is None or (mask.shape == (rows, length) and not bool(mask.all()))
        assert all(part.shape[-2] == length for part in kwargs["position_embeddings"])
        assert not [name for name in PACKED if kwargs.get(name) is not None]
