"""Loaded as it is or converted, a checkpoint chats, merges and is told the time."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sttm
from sttm import checkpoints
from sttm.checkpoints import Placement
from sttm.errors import ConfigError
from sttm.video import Sampling, Video
from tests.chat.tiny import bundle

from . import original as tiny
from .original import Original, write_json

TIMES = (
    "The video lasts for 4.00 seconds, and 4 frames are uniformly sampled from it. These frames "
    "are located at 0.00s,1.00s,2.00s,3.00s. "
    "Please answer the following questions related to this video.\n"
)


@cache
def load(folder: Path) -> tuple[Any, Any]:
    return checkpoints.load(str(folder))


def video(frames: int = 4) -> Video:
    rng = np.random.default_rng(0)
    return Video(
        frames=rng.integers(0, 255, (frames, 12, 18, 3), dtype=np.uint8),
        timestamps=tuple(1.01 * i for i in range(frames)),
        indices=tuple(30 * i for i in range(frames)),
        duration=4.1,
        fps=30.0,
        total_frames=30 * frames,
        path="clip.mp4",
        sampling=Sampling(),
    )


def test_the_time_is_told_where_the_configuration_asks_for_it(converted: Path) -> None:
    model, processor = load(converted)
    assert model.config.add_time_instruction
    chat = sttm.VideoChat(model, processor)
    seen = chat.encode(video(), context="Subtitles.\n")
    assert seen.prefix.context == TIMES + "Subtitles.\n"
    head = processor.tokenizer.decode(seen.inputs["input_ids"][0])
    assert f"<video>\n{TIMES}Subtitl" in head.replace("<video>" * 36, "<video>")


def test_the_time_is_part_of_what_questions_share(converted: Path) -> None:
    chat = sttm.VideoChat(*load(converted), sttm.STTM(keep=0.5))
    watched = chat.watch(video())
    answer = watched.ask("Why?", max_new_tokens=3)
    # Its own letters, the marks around it, and a few letters before it that might join with it.
    assert answer.prompt_tokens <= len("Why?|\n|assistant\n") + 8
    prompt = watched.prefix.prompt_ids(chat.processor, [], "Why?")
    text = chat.processor.tokenizer.decode(prompt)
    assert text.endswith(f"{TIMES}Why?<|im_end|>\n<|im_start|>assistant\n")


def test_the_time_is_not_told_to_others() -> None:
    other = bundle("llava_onevision")
    chat = sttm.VideoChat(other.model, other.processor)
    assert chat.encode(video()).prefix.context == ""


@torch.no_grad()
@pytest.mark.parametrize("method", [None, sttm.STTM(keep=0.4)])
def test_both_ways_of_loading_answer_alike(
    original: Original, converted: Path, method: sttm.Method | None
) -> None:
    answers = []
    for folder in (original.folder, converted):
        watched = sttm.VideoChat(*load(folder), method).watch(video())
        assert watched.tokens_in == 36
        assert watched.tokens_out == (36 if method is None else 14)
        answers.append(watched.ask("What happens?", max_new_tokens=6).ids)
    assert answers[0] == answers[1]


@torch.no_grad()
@pytest.mark.parametrize("newline", ["no_token", "grid"])
def test_a_chat_equals_one_prompt_from_scratch(original: Original, newline: str) -> None:
    model, processor = checkpoints.load(str(original.folder), newline=newline)
    answer = sttm.VideoChat(model, processor).watch(video()).ask("Why?", max_new_tokens=5)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<video>\n{TIMES}Why?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], videos=[video().frames], return_tensors="pt")
    ids = inputs["input_ids"]
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert tuple(out[0, ids.shape[1] :].tolist()) == answer.ids
    # And the first token is the one by hand, from the original layout.
    at = (ids[0] == model.config.video_token_id).nonzero().flatten()
    before, after = ids[0, : at[0]].tolist(), ids[0, at[-1] + 1 :].tolist()
    seen = tiny.video_tokens(original.tensors, inputs["pixel_values_videos"][0], newline)
    assert int(tiny.logits(original, before, seen, after)[-1].argmax()) == answer.ids[0]


def test_a_saved_video_belongs_to_its_newlines(converted: Path, tmp_path: Path) -> None:
    model, processor = load(converted)
    sttm.VideoChat(model, processor, sttm.STTM(keep=0.5)).watch(video()).save(tmp_path / "c.sttm")
    again = sttm.VideoChat(*checkpoints.load(str(converted)), sttm.STTM(keep=0.5))
    assert again.load(tmp_path / "c.sttm").tokens_out == 18
    other = sttm.VideoChat(*checkpoints.load(str(converted), newline="grid"), sttm.STTM(keep=0.5))
    with pytest.raises(sttm.SavedCacheError, match="another model"):
        other.load(tmp_path / "c.sttm")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_models_of_transformers_load_as_they_are(name: str, tmp_path: Path) -> None:
    made = bundle(name)
    made.model.save_pretrained(tmp_path)
    made.processor.save_pretrained(tmp_path)
    model, processor = checkpoints.load(str(tmp_path))
    assert type(model) is type(made.model)
    assert type(processor) is type(made.processor)
    wanted = made.model.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    if name != "llava_onevision":
        with pytest.raises(ConfigError, match="expected a LLaVA-Video or LLaVA-OneVision"):
            checkpoints.load(str(tmp_path), newline="grid")


def test_published_onevision_may_go_without_its_newline(tmp_path: Path) -> None:
    made = bundle("llava_onevision")
    made.model.save_pretrained(tmp_path)
    made.processor.save_pretrained(tmp_path)
    model, processor = checkpoints.load(str(tmp_path), newline="no_token")
    watched = sttm.VideoChat(model, processor).watch(video())
    assert int((watched.ids == model.config.video_token_id).sum()) == watched.tokens_in == 36


def test_a_model_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="hub, or a folder"):
        checkpoints.load("nowhere/at-all")
    with pytest.raises(ConfigError, match="on the Hugging Face hub"):
        checkpoints.plan_conversion("nowhere/at-all")


def test_a_damaged_folder(converted: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "llava_onevision"})
    with pytest.raises(ConfigError, match="cannot be loaded"):
        checkpoints.load(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="got no JSON"):
        checkpoints.load(str(tmp_path))


@pytest.mark.parametrize("where", ["cpu", "auto", "sequential"])
def test_placements(original: Original, where: str) -> None:
    if where != "cpu":
        pytest.importorskip("accelerate")
    model, _ = checkpoints.load(str(original.folder), placement=Placement(where))
    wanted, _ = load(original.folder)
    found = model.state_dict()
    assert all(torch.equal(found[k].cpu(), v.cpu()) for k, v in wanted.state_dict().items())


@pytest.mark.parametrize(
    ("where", "told"),
    [("gpu", "expected auto, balanced"), ("cuda:99", "one of the"), ("tp", "one per GPU")],
)
def test_placements_that_cannot_be(where: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match=told):
        Placement(where)
