from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
)

from sttm import VideoChat
from sttm.nano.clips import Clip, make_clip, write_clip
from sttm.nano.model import NANO_LAYER, load, weights_path
from sttm.nano.questions import Question, make_questions, scene_questions
from sttm.nano.scenes import SCENE_KINDS, make_scene

Nano = tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]
HELD_OUT = 30_000_000  # neither training nor its evaluation reaches these seeds


def prompt(processor: LlavaOnevisionProcessor, *turns: str) -> str:
    """A chat about one video: question, answer, question, ..."""
    messages = []
    for i, text in enumerate(turns):
        video = [{"type": "video"}] if i == 0 else []
        content = [*video, {"type": "text", "text": text}]
        messages.append({"role": "assistant" if i % 2 else "user", "content": content})
    rendered: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    return rendered


@torch.no_grad()
def answer(nano: Nano, frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], text: str) -> str:
    model, processor = nano
    inputs = processor(text=[text], videos=[frames], return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    said: str = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


def first_of(task: str, questions: list[Question]) -> Question:
    return next(q for q in questions if q.task == task)


def test_the_folder_is_small_and_complete() -> None:
    folder = weights_path()
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 10_000_000
    names = {f.name for f in folder.iterdir()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "chat_template.jinja",
    }


def test_weights_are_stored_in_bfloat16() -> None:
    from safetensors import safe_open

    with safe_open(weights_path() / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    assert kinds == {"BF16"}


def test_auto_classes_find_the_real_ones() -> None:
    model = AutoModelForImageTextToText.from_pretrained(weights_path(), dtype=torch.bfloat16)
    processor = AutoProcessor.from_pretrained(weights_path())
    assert type(model) is LlavaOnevisionForConditionalGeneration
    assert type(processor) is LlavaOnevisionProcessor
    assert model.dtype == torch.bfloat16


def test_importing_nano_adds_no_heavy_module() -> None:
    code = (
        "import sys, sttm; before = set(sys.modules); import sttm.nano; "
        "sys.exit(bool({'torch', 'transformers', 'av', 'numpy'} & (set(sys.modules) - before)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_weights_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sttm.nano.model.weights_path", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall"):
        load()


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_sixty_four_tokens_per_frame_and_one_newline(nano: Nano, frames: int) -> None:
    processor = nano[1]
    clip = make_clip(HELD_OUT, frames)
    by_text = processor(text=[prompt(processor, "Hi")], videos=[clip.frames], return_tensors="pt")
    content = [{"type": "video", "video": clip.frames}, {"type": "text", "text": "Hi"}]
    by_chat = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    count = int((by_text["input_ids"] == processor.video_token_id).sum())
    assert count == frames * 64 + 1
    assert torch.equal(by_text["input_ids"], by_chat["input_ids"])
    assert torch.equal(by_text["pixel_values_videos"], by_chat["pixel_values_videos"])


def test_any_text_survives_the_tokenizer(nano: Nano) -> None:
    tokenizer = nano[1].tokenizer
    for text in ("Wo ist die Ziffer 42?", "¿qué? 数字 🎈\n\ttabs", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_image_goes_through(nano: Nano) -> None:
    from PIL import Image

    model, processor = nano
    for size in ((128, 128), (200, 90)):
        text = "<|im_start|>user\n<image>\nWhich digit appears?<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=[text], images=[Image.new("RGB", size)], return_tensors="pt")
        assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1


def shares(nano: Nano, asked: Iterable[tuple[Clip, list[Question]]]) -> dict[str, float]:
    """Return the share of right answers per task; a clip is encoded once for all its questions."""
    right: dict[str, list[bool]] = {}
    for clip, questions in asked:
        video = VideoChat(*nano).watch(clip.frames)
        for question in {q.task: q for q in reversed(questions)}.values():
            said = video.ask(question.text, max_new_tokens=8).text
            right.setdefault(question.task, []).append(said == question.answer)
    return {task: sum(each) / len(each) for task, each in right.items()}


def test_it_answers_held_out_clips(nano: Nano) -> None:
    tasks = {"digit", "colour", "quadrant"}
    clips = [(make_clip(seed, 8), seed) for seed in range(HELD_OUT, HELD_OUT + 20)]
    asked = [(c, [q for q in make_questions(c, seed) if q.task in tasks]) for c, seed in clips]
    found = shares(nano, asked)
    assert found.keys() == tasks
    assert min(found.values()) >= 0.8, found


def test_it_answers_held_out_scenes(nano: Nano) -> None:
    tasks = {"background", "texture", "relation", "digit"}
    seeds = range(HELD_OUT, HELD_OUT + 24)
    clips = [(make_scene(seed, 6, kind=SCENE_KINDS[seed % 4]), seed) for seed in seeds]
    asked = [(c, [q for q in scene_questions(c, seed) if q.task in tasks]) for c, seed in clips]
    found = shares(nano, asked)
    assert found.keys() == tasks
    assert min(found.values()) >= 0.7, found


def test_it_answers_from_an_mp4_and_in_a_conversation(nano: Nano, tmp_path: Path) -> None:
    import av

    right = []
    for seed in range(HELD_OUT + 100, HELD_OUT + 108):
        clip = make_clip(seed, 8, num_needles=2)
        path = tmp_path / f"{seed}.mp4"
        write_clip(clip, path)
        with av.open(str(path)) as container:
            frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        questions = make_questions(clip, seed)
        one, two = first_of("colour", questions), first_of("digit", questions)
        text = prompt(nano[1], one.text, one.answer, two.text)
        right.append(answer(nano, frames, text) == two.answer)
    assert sum(right) >= 6


def test_it_stops_by_itself_and_says_nothing_else(nano: Nano) -> None:
    model, processor = nano
    clip = make_clip(HELD_OUT + 1, 4)
    inputs = processor(
        text=[prompt(processor, "How many digits appear?")],
        videos=[clip.frames],
        return_tensors="pt",
    )
    out = model.generate(**inputs, max_new_tokens=16)
    assert out.shape[1] - inputs["input_ids"].shape[1] == 2  # a numeral and the end of the turn
    assert int(out[0, -1]) == processor.tokenizer.eos_token_id


def test_recommended_layer_is_a_layer(nano: Nano) -> None:
    assert 0 <= NANO_LAYER < nano[0].config.text_config.num_hidden_layers
