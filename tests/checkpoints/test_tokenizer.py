"""Tokenizer, prompt format and pictures of a converted checkpoint."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaOnevisionVideoProcessor

from sttm import checkpoints
from sttm.checkpoints.tokenizer import read_tokenizer
from sttm.errors import ConfigError

from . import original as tiny
from .original import Original, write_original

PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<video>\nWhy?<|im_end|>\n<|im_start|>assistant\n"
)


@cache
def load(folder: Path) -> tuple[Any, Any]:
    return checkpoints.load(str(folder))


def test_the_prompt_is_that_of_llava(converted: Path) -> None:
    _, processor = load(converted)
    content = [{"type": "video"}, {"type": "text", "text": "Why?"}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
    render = processor.apply_chat_template
    assert render(turns, add_generation_prompt=True, tokenize=False) == PROMPT
    turns.insert(0, {"role": "system", "content": [{"type": "text", "text": "Be brief."}]})
    spoken = render(turns, add_generation_prompt=True, tokenize=False)
    assert spoken == PROMPT.replace("You are a helpful assistant.", "Be brief.")
    turns.append({"role": "assistant", "content": "So."})
    assert render(turns, tokenize=False).endswith("<|im_start|>assistant\nSo.<|im_end|>\n")


def test_placeholders_take_rows_that_no_word_has(original: Original) -> None:
    model, processor = load(original.folder)
    known = tiny.tokenizer().get_vocab()
    config, words = model.config, processor.tokenizer
    assert words.convert_tokens_to_ids(["<image>", "<video>"]) == [
        config.image_token_id,
        config.video_token_id,
    ]
    assert not {config.image_token_id, config.video_token_id} & set(known.values())
    assert {word: index for word, index in words.get_vocab().items() if word in known} == known
    # There was room: the vocabulary is as it was.
    assert config.text_config.vocab_size == original.config["vocab_size"]


@torch.no_grad()
def test_a_vocabulary_without_room_grows(tmp_path: Path) -> None:
    given = write_original(tmp_path, spare=1)
    rows = given.config["vocab_size"]
    checkpoints.convert(
        checkpoints.plan_conversion(str(given.folder)), tmp_path / "out", verify=True
    )
    for folder in (given.folder, tmp_path / "out"):
        model, _ = load(folder)
        head, embedding = model.lm_head.weight, model.get_input_embeddings().weight
        assert len(head) == len(embedding) == 320
        assert torch.equal(embedding[:rows], given.tensors["model.embed_tokens.weight"])
        hidden = torch.randn(500, tiny.HIDDEN, generator=torch.Generator().manual_seed(0))
        logits = model.lm_head(hidden)
        assert torch.equal(logits[:, :rows], hidden @ given.tensors["lm_head.weight"].T)
        # A new row is never the likeliest word, even where all are unlikely.
        new = given.tensors["lm_head.weight"].mean(0).expand(320 - rows, -1)
        torch.testing.assert_close(head[rows:], new, atol=1e-6, rtol=0)
        assert int(logits.argmax(-1).max()) < rows


def test_placeholders_that_are_there_are_kept(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    words = tiny.tokenizer()
    words.add_tokens(["<image>", "<video>"])
    words.save_pretrained(given.folder)
    found = read_tokenizer(given.folder)
    assert (found.image, found.video) == tuple(words.convert_tokens_to_ids(["<image>", "<video>"]))
    assert {found.image, found.video} <= {
        index for index, token in found.wrapped.added_tokens_decoder.items() if token.special
    }


@pytest.mark.parametrize(
    ("eos", "expected"), [(None, [256]), (257, [256, 257]), ([257, 256], [256, 257])]
)
def test_what_ends_an_answer(
    tmp_path: Path, eos: int | list[int] | None, expected: list[int]
) -> None:
    given = write_original(tmp_path)
    settings = {"eos_token_id": eos, "do_sample": True, "repetition_penalty": 1.05}
    (given.folder / "generation_config.json").write_text(json.dumps(settings))
    assert tiny.tokenizer().convert_tokens_to_ids(["<|im_end|>"]) == [256]
    model, _ = checkpoints.load(str(given.folder))
    settled = model.generation_config
    assert settled.eos_token_id == expected
    assert not settled.do_sample
    assert settled.repetition_penalty in (None, 1.0)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    for file in given.folder.glob("token*"):
        file.unlink()
    with pytest.raises(ConfigError, match="tokenizer"):
        checkpoints.plan_conversion(str(given.folder))


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    file = given.folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_end|>", "</s>"))
    settings = given.folder / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("<|im_end|>", "</s>"))
    with pytest.raises(ConfigError, match=r"without <\|im_end\|>"):
        checkpoints.plan_conversion(str(given.folder))


def test_tiles_of_images_are_spelled_out(original: Original) -> None:
    model, processor = load(original.folder)
    assert model.config.image_grid_pinpoints == [[10, 10], [10, 20], [20, 10], [20, 20]]
    assert processor.image_processor.image_grid_pinpoints == model.config.image_grid_pinpoints


def test_frames_are_resized_as_pillow_does_it() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (2, 90, 160, 3), dtype=np.uint8)
    size = {"height": 64, "width": 64}
    half = [0.5, 0.5, 0.5]
    process = LlavaOnevisionVideoProcessor(size=size, image_mean=half, image_std=half, resample=3)
    got = process(videos=[frames], return_tensors="pt")["pixel_values_videos"][0]
    for frame, made in zip(frames, got):
        small = np.array(Image.fromarray(frame).resize((64, 64), Image.Resampling.BICUBIC))
        expected = torch.from_numpy(small).permute(2, 0, 1) / 255 * 2 - 1
        assert float((made - expected).abs().max()) <= 1.01 * 2 / 255  # one level of brightness


def test_pictures_are_squared_to_the_towers_size(original: Original) -> None:
    _, processor = load(original.folder)
    frames = np.full((3, 20, 40, 3), 255, dtype=np.uint8)
    inputs = processor(text=["<video>"], videos=[frames], return_tensors="pt")
    pixels = inputs["pixel_values_videos"]
    assert pixels.shape == (1, 3, 3, 10, 10)
    assert torch.equal(pixels, torch.ones_like(pixels))  # white is 1: mean and deviation 0.5
    assert inputs["input_ids"].shape == (1, 3 * 9)


@pytest.mark.parametrize(("newline", "tokens"), [("one_token", 28), ("frame", 30), ("grid", 36)])
def test_placeholders_are_counted_with_newlines(
    original: Original, newline: str, tokens: int
) -> None:
    _, processor = checkpoints.load(str(original.folder), newline=newline)
    frames = np.zeros((3, 20, 40, 3), dtype=np.uint8)
    inputs = processor(text=["<video>"], videos=[frames], return_tensors="pt")
    assert inputs["input_ids"].shape == (1, tokens)
    counted = processor._get_num_multimodal_tokens(video_sizes=[(3, 20, 40)])
    assert counted["num_video_tokens"] == [tokens]
