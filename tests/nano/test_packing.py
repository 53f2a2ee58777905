"""The packed training rows: exactly as if every question were asked alone."""

from __future__ import annotations

import copy

import pytest
import torch
from training.ask import Packer, held_out
from training.data import HELD_OUT
from training.packing import ATTENTION, answers_right, packed_logits
from training.text import END, VOCABULARY, build_tokenizer, prefix_text, question_text
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from sttm.nano.clips import make_clip
from sttm.nano.questions import make_questions

Nano = tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]
FRAMES = 3


@torch.no_grad()
def alone(nano: Nano, seed: int) -> torch.Tensor:
    """Answer logits of every question, each through the processor on its own."""
    model, processor = nano
    clip = make_clip(seed, FRAMES)
    rows = []
    for question in make_questions(clip, clip.seed):
        text = f"{prefix_text(False)}<video>{question_text(question.text)}{question.answer}{END}"
        inputs = processor(text=[text], videos=[clip.frames], return_tensors="pt")
        count = len(processor.tokenizer.encode(question.answer + END))
        rows.append(model(**inputs).logits[0, -count - 1 : -1])
    return torch.cat(rows)


@pytest.mark.parametrize("leak", [False, True], ids=["exact", "a leaking mask is noticed"])
def test_packed_logits_equal_separate_prompts(
    nano: Nano, leak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if leak:
        monkeypatch.setattr(
            "training.packing.block_mask",
            lambda blocks, context: torch.zeros(
                len(blocks), 1, blocks.shape[1], context + blocks.shape[1]
            ),
        )
    model, processor = nano
    packed = copy.deepcopy(model)
    packed.set_attn_implementation({"text_config": ATTENTION})
    batch = held_out(Packer(processor.tokenizer), FRAMES, 2)
    with torch.no_grad():
        logits, video = packed_logits(packed, batch)
    expected = torch.cat([alone(nano, HELD_OUT), alone(nano, HELD_OUT + 1)])
    assert video.shape == (2, FRAMES * 64, model.config.text_config.hidden_size)
    assert bool((logits - expected).abs().max() < 1e-3) is not leak


def test_a_whole_answer_must_be_right(nano: Nano) -> None:
    batch = held_out(Packer(nano[1].tokenizer), 2, 2)
    labels = batch.labels[batch.labels >= 0]
    perfect = torch.nn.functional.one_hot(labels, VOCABULARY).float()
    graded = answers_right(perfect, batch)
    assert len(graded) == sum(len(tasks) for tasks in batch.tasks)
    assert all(right for _, right in graded)
    perfect[0] = perfect[0].roll(1)  # the first token of the first answer
    assert [right for _, right in answers_right(perfect, batch)].count(False) == 1


def test_the_tokenizer_is_the_same_every_time(nano: Nano) -> None:
    assert build_tokenizer().get_vocab() == nano[1].tokenizer.get_vocab()
