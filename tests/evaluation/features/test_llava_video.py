"""LLaVA-Video, whose newline tokens are configured: they are part of the features."""

from pathlib import Path
from typing import Any

import pytest
import torch

import sttm
from sttm import checkpoints
from sttm.errors import ConfigError
from sttm.evaluation.features import Extraction, ExtractPlan, FeatureFolder, VideoJob
from sttm.video import Sampling
from tests.checkpoints.original import write_original

from .test_published import llava_metadata, llava_states, write
from .test_replay import logits, same_tree
from .tiny import files, video


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint in LLaVA-NeXT's layout."""
    return str(write_original(tmp_path_factory.mktemp("original")).folder)


def load(original: str, newline: str) -> tuple[Any, Any]:
    """Load it with newline tokens at some places, in float32."""
    return checkpoints.load(original, newline=newline, dtype="float32")


@pytest.mark.parametrize("newline", ["no_token", "one_token", "frame", "grid"])
def test_published_features(newline: str, original: str, tmp_path: Path) -> None:
    model, processor = load(original, newline)
    made = video(4)
    write(tmp_path, "a", llava_states(model, processor, made), llava_metadata(made))
    chat = sttm.VideoChat(model, processor, sttm.STTM(keep=0.5), layer=1)
    encoded = chat.encode(made)
    again = FeatureFolder.open(tmp_path, model).encoded(chat, "a")
    assert same_tree(encoded.features.pooler_output, again.features.pooler_output)
    assert torch.equal(encoded.inputs["input_ids"], again.inputs["input_ids"])
    assert encoded.tokens == again.tokens
    assert torch.equal(logits(chat, encoded), logits(chat, again))


def test_other_newlines_are_refused(original: str, tmp_path: Path) -> None:
    model, processor = load(original, "no_token")
    plan = ExtractPlan(tmp_path, Sampling(max_frames=3))
    (clip, _) = files(tmp_path / "clips")
    with Extraction(plan, [VideoJob.of_file(clip)], plan.settings(model, processor), {}) as some:
        assert len(list(some.run(lambda: (model, processor)))) == 1
    chat = sttm.VideoChat(model, processor)
    folder = FeatureFolder.open(tmp_path, model)
    assert torch.equal(
        logits(chat, chat.encode(clip, max_frames=3)), logits(chat, folder.encoded(chat, clip.stem))
    )
    with pytest.raises(ConfigError, match=r"config\.\w*newline\w* 'no_token'.*has 'grid'"):
        FeatureFolder.open(tmp_path, load(original, "grid")[0])
