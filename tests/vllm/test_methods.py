"""Every method that vLLM may have leaves the asked number of tokens; TP groups share one result."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sttm.methods import list_methods
from sttm.vllm.config import NUM_TOKENS, Reduction

from .conftest import Checkpoint

OFFERED = [
    info.name
    for info in list_methods()
    if not info.query_aware and not info.requires and info.name != "identity"
]
FRAMES, HEIGHT, WIDTH, CHANNELS = 5, 3, 4, 16
TOKENS = FRAMES * HEIGHT * WIDTH


@pytest.fixture
def encode(monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint) -> Callable[..., Any]:
    """Return a function that encodes two made videos with a method, without an engine."""
    from sttm.vllm import merging

    class Encoder:
        config = SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(hidden_size=CHANNELS),
            vision_config=SimpleNamespace(spatial_merge_size=2),
            video_token_id=7,
        )

        def embed_multimodal(self, video_grid_thw: torch.Tensor) -> list[torch.Tensor]:
            return [
                torch.randn(TOKENS, 3 * CHANNELS, generator=torch.Generator().manual_seed(i))
                for i in range(len(video_grid_thw))
            ]

        def get_mrope_input_positions(self, tokens: list[int], _: Any) -> Any:
            return torch.arange(len(tokens)).expand(3, -1) * 300, 0

    class Model(merging.MergingMRoPE, Encoder):  # type: ignore[misc]
        def __init__(self, reduction: Reduction) -> None:
            self.reduction = reduction

    group = SimpleNamespace(broadcast=lambda rows, src: rows)
    monkeypatch.setattr(merging, "get_tp_group", lambda: group)

    def encoded(method: str, *counts: int) -> Any:
        model = Model(Reduction(method, (), 0.5))
        grid = torch.tensor([[FRAMES, 2 * HEIGHT, 2 * WIDTH]] * len(counts))
        return model.embed_multimodal(**{NUM_TOKENS: torch.tensor(counts), "video_grid_thw": grid})

    return encoded


@pytest.mark.parametrize("method", OFFERED)
def test_counts_are_exact(method: str, encode: Callable[..., Any]) -> None:
    from sttm.vllm.positions import COLUMNS, unpack

    for count in range(1, TOKENS):
        one, other = encode(method, count, TOKENS)
        assert one.shape == (count, 3 * CHANNELS + COLUMNS)
        assert other.shape == (TOKENS, 3 * CHANNELS)  # as the model gives it
        places = unpack(one[:, 3 * CHANNELS :])[0] // 300
        assert torch.equal(places, torch.unique(places))
        assert int(places[-1]) < TOKENS


def test_levels_are_merged_with_the_plan_of_the_features(encode: Callable[..., Any]) -> None:
    from sttm.grid import VideoGrid
    from sttm.methods import VideoFeatures, get_method

    rows = torch.randn(TOKENS, 3 * CHANNELS, generator=torch.Generator().manual_seed(0))
    grid = VideoGrid(FRAMES, HEIGHT, WIDTH)
    plan = get_method("sttm", keep=20).plan(VideoFeatures(rows[:, :CHANNELS], grid))
    [merged] = encode("sttm", 20)
    assert torch.equal(merged[:, : 3 * CHANNELS], plan.apply(rows))
