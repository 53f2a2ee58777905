"""What may be asked, and how: types, words that are no words, options of generate, threads."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import sttm
from sttm.errors import ConfigError, ContextWarning, VideoError
from tests.models.families import Family, shared_model, unlike_families
from tests.models.layouts import Text, Video
from tests.models.methods import PairMerge

from .tiny import FAMILIES, bundle, clip

QUESTION = "Which digit appears?"


def watched(name: str, method: Any = PairMerge(), frames: int = 8, **more: Any) -> Any:  # noqa: B008
    tiny = bundle(name)
    return sttm.VideoChat(tiny.model, tiny.processor, method, layer=1).watch(clip(frames), **more)


@pytest.mark.parametrize("where", ["argument", "generation_config"])
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_can_be_asked_for(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video = watched(name)
    plain = video.ask(QUESTION, max_new_tokens=4)
    assert plain.output is None
    options: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True}
    if where == "generation_config":
        model = bundle(name).model
        settings = {**model.generation_config.to_dict(), **options}
        monkeypatch.setattr(model, "generation_config", GenerationConfig(**settings))
        options = {}
    answer = video.ask(QUESTION, max_new_tokens=4, **options)
    assert answer.ids == plain.ids
    assert [int(scores[0].argmax()) for scores in answer.output.scores] == list(answer.ids)


def test_a_static_cache_of_the_configuration_is_for_other_prompts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video, model = watched("llava_onevision"), bundle("llava_onevision").model
    wanted = video.ask(QUESTION, max_new_tokens=4).ids
    monkeypatch.setattr(model.generation_config, "cache_implementation", "static")
    assert video.ask(QUESTION, max_new_tokens=4).ids == wanted
    with pytest.raises(ConfigError, match="in a cache already"):
        video.ask(QUESTION, cache_implementation="static")


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_videos_of_hardly_any_frames(name: str, frames: int) -> None:
    video = watched(name, frames=frames)
    assert len(video.source.timestamps) == frames
    assert len(video.ask(QUESTION, max_new_tokens=3).ids) == 3


def test_what_a_processor_does_not_take_is_that_video_s_error() -> None:
    tiny = bundle("qwen2_5_vl")
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    thin = np.zeros((4, 1, 2000, 3), np.uint8)
    with pytest.raises(VideoError, match=r"the frames: .*Processor does not take .* 2000x1 pixels"):
        chat.watch(thin)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("qwen2_5_vl", "<|video_pad|>"),
        ("qwen3_vl", "<|image_pad|>"),
        ("llava_onevision", "<|video_pad|>"),
        ("internvl", "<IMG_CONTEXT>"),
    ],
)
@pytest.mark.parametrize("where", ["context", "question", "system"])
def test_placeholders_in_words_are_refused(name: str, word: str, where: str) -> None:
    tiny, text = bundle(name), f"the {word} tag"
    system = text if where == "system" else None
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1, system=system)
    with pytest.raises(ConfigError, match=f"^{where}: got .* in the place of pictures"):
        chat.watch(clip(), context=text if where == "context" else "").ask(text)


@pytest.mark.parametrize("question", [None, 3, b"What?", ["What?"], "half \ud800 a pair"])
def test_questions_that_are_no_text_are_refused(question: Any) -> None:
    with pytest.raises(ConfigError, match=r"^question: got .*, expected text"):
        watched("llava_onevision").ask(question)


@pytest.mark.parametrize("video", [[None], None, 3, b"clip.mp4", torch.zeros(2, 4, 4, 3)])
def test_videos_of_a_wrong_type_are_refused(video: Any) -> None:
    tiny = bundle("llava_onevision")
    with pytest.raises(ConfigError, match=r"^video: got \w+, expected a path"):
        sttm.VideoChat(tiny.model, tiny.processor).watch(video)


def test_a_prompt_beyond_the_context_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = bundle("llava_onevision")
    most = tiny.model.config.get_text_config().max_position_embeddings
    video = watched("llava_onevision")
    with pytest.warns(
        ContextWarning, match=rf"needs \d+ positions, but the model was made for {most}"
    ):
        video.ask(QUESTION, max_new_tokens=most, eos_token_id=list(range(256)))
    monkeypatch.setattr(tiny.model.config.text_config, "max_position_embeddings", 50)
    with pytest.warns(ContextWarning, match="the video's prompt of"):
        watched("llava_onevision")


class TestThreads:
    """A video, a chat and an attached model are used from threads by every server."""

    @pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "qwen3_5"])
    def test_chats_on_one_model_wait_for_one_another(self, name: str) -> None:
        tiny = bundle(name)
        chats = [
            sttm.VideoChat(tiny.model, tiny.processor, m, layer=1) for m in (None, PairMerge())
        ]
        videos = [chat.watch(clip()) for chat in chats]
        questions = [(video, text) for video in videos for text in (QUESTION, "Why?", "Who?")]
        wanted = [video.ask(text, max_new_tokens=5).ids for video, text in questions]

        def job(number: int) -> str:
            place = number % len(questions)
            video, text = questions[place]
            if number % 5 == 4:
                video = video.chat.watch(clip())
            same = video.ask(text, max_new_tokens=5).ids == wanted[place]
            return "same" if same else "another answer"

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(job, range(36))) == {"same"}

    def test_one_conversation_keeps_its_turns(self) -> None:
        talk = watched("llava_onevision").conversation()
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda text: talk.ask(text, max_new_tokens=2), "abcdefgh"))
        assert Counter(question for question, _ in talk.history) == Counter("abcdefgh")
        assert Counter(text for _, text in talk.history) == Counter(a.text for a in answers)

    @unlike_families
    def test_one_attached_model_serves_several(self, family: Family) -> None:
        model = shared_model(family.name)
        prompts = [family.make_inputs((Text(4), Video(3, seed=s), Text(3 + s))) for s in range(3)]

        def generate(number: int) -> list[int]:
            inputs = prompts[number % 3]
            out = model.generate(**inputs.tensors, max_new_tokens=6, do_sample=False)
            ids: list[int] = out[0, inputs.length :].tolist()
            return ids

        with sttm.attach(model, PairMerge(), layer=1) as attachment:
            wanted = [generate(number) for number in range(3)]
            with ThreadPoolExecutor(3) as pool:
                got = list(pool.map(generate, range(24)))
            assert len(attachment.reports) == 1
        assert got == wanted * 8

    def test_a_chat_does_not_mix_with_an_attachment_of_its_owner(self) -> None:
        video, whole = watched("llava_onevision"), watched("llava_onevision", None)
        with sttm.attach(bundle("llava_onevision").model, PairMerge(), layer=1):
            for each in (video, whole):
                with pytest.raises(ConfigError, match="something is attached"):
                    each.ask(QUESTION)
