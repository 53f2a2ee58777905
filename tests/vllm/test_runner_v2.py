"""vLLM's second model runner, which needs a GPU, places merged tokens with the same functions."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sttm.vllm.config import Reduction

from .test_positions import MEDIA, WIDTH, given, window

_CONFIG = SimpleNamespace(
    get_text_config=lambda: SimpleNamespace(hidden_size=WIDTH), image_token_id=1, video_token_id=1
)


class _Encoded:
    """One request with an image and two videos, as the runner's cache of encoded media has it."""

    def __init__(self) -> None:
        from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

        spans = [PlaceholderRange(offset=at, length=n) for at, n in ((3, 4), (9, 6), (17, 3))]
        self.mm_features = {
            "one": [
                MultiModalFeatureSpec(data=None, modality="video", identifier="", mm_position=span)
                for span in spans
            ]
        }


class _Rope:
    """Positions of the one request."""

    def __init__(self, positions: torch.Tensor) -> None:
        self.positions = positions
        self.delta: int | None = None

    def read_prefill_positions(self, request: int, length: int) -> torch.Tensor:
        return self.positions[:, :length]

    def update_prefill_positions(self, request: int, positions: Any, delta: int) -> None:
        self.positions, self.delta = positions, delta


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("size", [4, 10, 22])
def test_the_second_runner_places_them(size: int) -> None:
    from vllm.v1.worker.gpu.model_states.mm_pruning import MultiModalPruner

    from sttm.vllm.merging import MergingMRoPE

    class Model(MergingMRoPE):
        def __init__(self) -> None:
            self.config, self.reduction = _CONFIG, Reduction("sttm", (), 0.5)

    positions, rows, wanted = given()
    rope = _Rope(positions)
    pruner = MultiModalPruner(Model(), rope, _Encoded(), WIDTH)
    ids = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=MEDIA.long()[None]))
    for start in range(0, len(MEDIA), size):
        chunk = window(rows, start, start + size)
        batch = SimpleNamespace(
            idx_mapping_np=np.array([0]),
            prefill_len_np=np.array([len(MEDIA)]),
            num_computed_prefill_tokens_np=np.array([start]),
            num_scheduled_tokens=np.array([min(size, len(MEDIA) - start)]),
            req_ids=["one"],
        )
        cleaned = pruner.recompute(chunk, batch, ids)
        assert [part.shape for part in cleaned] == [(len(part), WIDTH) for part in chunk]
    assert torch.equal(rope.positions, wanted)
    assert rope.delta == int(wanted[0, -1]) + 1 - len(MEDIA)
    assert [part.shape[1] for part in pruner.strip(rows)] == [WIDTH] * 3
