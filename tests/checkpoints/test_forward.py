"""Logits equal a forward pass written from the original layout."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sttm import checkpoints
from sttm.attachment import attach
from sttm.grid import VideoGrid
from sttm.models.newlines import NEWLINES, newline_marks
from tests.models.families import Inputs
from tests.models.layouts import VideoPlace
from tests.models.methods import PairMerge
from tests.models.oracle import by_hand

from . import original as tiny
from .original import Original

BEFORE, AFTER = [72, 101, 257, 10], [63, 10, 258, 97, 98]
FRAMES = 4
GRID = VideoGrid(FRAMES, tiny.POOLED, tiny.POOLED)


@cache
def load(name: str, newline: str | None) -> tuple[Any, Any]:
    return checkpoints.load(name, newline=newline)


def frames(seed: int = 0) -> torch.Tensor:
    return torch.randn(FRAMES, 3, 10, 10, generator=torch.Generator().manual_seed(seed))


def inputs(model: Any, tokens: int, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[*BEFORE, *[model.config.video_token_id] * tokens, *AFTER]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels[None],
    }


@torch.no_grad()
@pytest.mark.parametrize("newline", NEWLINES)
def test_logits_equal_those_by_hand(original: Original, newline: str) -> None:
    model, _ = load(str(original.folder), newline)
    video = tiny.video_tokens(original.tensors, frames(), newline)
    assert len(video) == {"no_token": 36, "one_token": 37, "frame": 40, "grid": 48}[newline]
    expected = tiny.logits(original, BEFORE, video, AFTER)
    got = model(**inputs(model, len(video), frames())).logits[0]
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("newline", [None, "grid"])
def test_a_converted_folder_is_the_same_model_bit_for_bit(
    original: Original, converted: Path, newline: str | None
) -> None:
    there, _ = load(str(converted), newline)
    here, _ = load(str(original.folder), newline)
    given = inputs(here, 48 if newline else 36, frames())
    assert torch.equal(there(**given).logits, here(**given).logits)


@torch.no_grad()
def test_plain_transformers_loads_it_with_its_own_newline(
    original: Original, converted: Path
) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(converted)
    processor = AutoProcessor.from_pretrained(converted)
    text = processor.apply_chat_template([_asked("?")], tokenize=False)
    pictures = [np.zeros((FRAMES, 10, 10, 3), dtype=np.uint8)]
    ids = processor(text=[text], videos=pictures, return_tensors="pt")["input_ids"]
    video = tiny.video_tokens(original.tensors, frames(), "one_token")
    assert int((ids == model.config.video_token_id).sum()) == len(video)
    expected = tiny.logits(original, BEFORE, video, AFTER)
    got = model(**inputs(model, len(video), frames())).logits[0]
    torch.testing.assert_close(got, expected, atol=5e-5, rtol=0)


def _asked(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}


@torch.no_grad()
@pytest.mark.parametrize("newline", NEWLINES)
@pytest.mark.parametrize("positions", ["survived", "reassigned"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_reduction_equals_one_by_hand(
    original: Original, newline: str, positions: str, layer: int
) -> None:
    model, _ = load(str(original.folder), newline)
    marks = newline_marks(newline, GRID)
    index = len(BEFORE) + marks.logical_not().nonzero().squeeze(1)
    given = Inputs(inputs(model, len(marks), frames()), ((VideoPlace(GRID, index),),))
    with attach(model, PairMerge(), layer=layer, positions=positions) as attachment:
        got = model(**given.tensors).logits[0, -1]
        (report,) = attachment.reports
    assert (report.tokens_in, report.tokens_out) == (36, 18)
    hand = by_hand(model, given, PairMerge(), layer, positions)
    torch.testing.assert_close(got, hand.logits[-1], atol=5e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("newline", ["grid", "frame"])
def test_beams_with_newlines_between(original: Original, newline: str) -> None:
    model, _ = load(str(original.folder), newline)
    given = inputs(model, len(newline_marks(newline, GRID)), frames())
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    with attach(model, PairMerge(), layer=1) as attachment:
        found = model.generate(
            **given, num_beams=2, output_scores=True, return_dict_in_generate=True, **options
        )
        assert len(attachment.reports) == 1
        # The score of a beam is the mean log-probability of its tokens, whoever computes it.
        ids = found.sequences
        whole = {**given, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logits = model(**whole).logits[0, -4:-1].log_softmax(-1)
    wanted = logits.gather(1, ids[0, -3:, None]).mean()
    torch.testing.assert_close(found.sequences_scores[0], wanted, atol=1e-4, rtol=0)


def test_a_batch_of_videos(original: Original) -> None:
    model, _ = load(str(original.folder), "grid")
    pair = torch.stack([frames(0), frames(1)])
    both = model.model.get_video_features(pair, return_dict=True).pooler_output
    for row, pixels in zip(both, pair):
        alone = tiny.video_tokens(original.tensors, pixels, "grid")
        torch.testing.assert_close(row, alone, atol=5e-5, rtol=0)


def test_features_as_a_tuple(original: Original) -> None:
    model, _ = load(str(original.folder), "grid")
    named = model.model.get_video_features(frames()[None], return_dict=True)
    plain = model.model.get_video_features(frames()[None], return_dict=False)
    assert isinstance(plain, tuple)
    tensors = [part for part in plain if isinstance(part, torch.Tensor)]
    assert any(torch.equal(part, named.pooler_output) for part in tensors)
