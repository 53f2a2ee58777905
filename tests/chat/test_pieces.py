"""Videos that are encoded piece by piece: bit by bit what all frames at once give."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sttm
from sttm.chat.pieces import PieceEncoder
from sttm.chat.records import Encoded
from sttm.models.transformers_api import ENCODER_FIELDS
from sttm.video import Video, read_video, write_video
from sttm.video.passes import PIECE
from tests.chat.test_stream import assert_same
from tests.evaluation.features.tiny import FAMILIES, bundle, video

# Their frames go through the tower, or are compared with one another, all at once.
WHOLE = {"smolvlm", "video_llama_3"}


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in value for t in tensors(part)] if isinstance(value, list | tuple) else []


def assert_equal(got: Encoded, wanted: Encoded) -> None:
    assert got.inputs.keys() == wanted.inputs.keys()
    for name, value in wanted.inputs.items():
        assert torch.equal(got.inputs[name], value), name
    assert torch.equal(got.prefix.head, wanted.prefix.head)
    assert (got.tokens, got.source) == (wanted.tokens, wanted.source)
    for name in ENCODER_FIELDS:
        pairs = zip(
            tensors(got.features.get(name)), tensors(wanted.features.get(name)), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs), name
    assert str(got.features.sttm_videos) == str(wanted.features.sttm_videos)


def encode(chat: sttm.VideoChat, shown: Any, monkeypatch: Any, *, whole: bool) -> Encoded:
    with monkeypatch.context() as patch:
        if whole:
            patch.setattr(PieceEncoder, "receive", lambda *_: False)
        return chat.encode(shown, max_frames=999)


def watch_finished(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note for each video that was begun in pieces whether it was finished so."""
    finished: list[bool] = []
    finish = PieceEncoder.finish

    def noted(self: PieceEncoder, *arguments: Any) -> Any:
        made = finish(self, *arguments)
        finished.append(made is not None)
        return made

    monkeypatch.setattr(PieceEncoder, "finish", noted)
    return finished


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("count", [PIECE + 1, 2 * PIECE, 2 * PIECE + 7])
def test_pieces_equal_the_whole(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, finished = bundle(name), watch_finished(monkeypatch)
    with sttm.VideoChat(tiny.model, tiny.processor) as chat:
        shown = video(count)
        got = encode(chat, shown, monkeypatch, whole=False)
        assert finished == ([] if name in WHOLE else [True])
        assert_equal(got, encode(chat, shown, monkeypatch, whole=True))


@pytest.mark.parametrize("options", [{"dedupe": 60.0}, {"reuse": 30.0}, {"chunk": 5}])
def test_ways_to_encode(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, finished = bundle("qwen2_5_vl"), watch_finished(monkeypatch)
    encoding = sttm.FrameEncoding(**options)
    with sttm.VideoChat(tiny.model, tiny.processor, encoding=encoding) as chat:
        shown = video(2 * PIECE + 5)
        got = encode(chat, shown, monkeypatch, whole=False)
        assert finished == [True]
        assert_equal(got, encode(chat, shown, monkeypatch, whole=True))


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_the_towers_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, finished = bundle(name), watch_finished(monkeypatch)
    method = sttm.methods.VisionZip(keep=0.2)
    with sttm.VideoChat(tiny.model, tiny.processor, method, layer=1) as chat:
        shown = video(PIECE + 7)
        got, whole = (encode(chat, shown, monkeypatch, whole=each) for each in (False, True))
    assert finished == [True]
    (mine,), (theirs,) = (each.features.sttm_videos for each in (got, whole))
    assert mine.tower_attention is not None
    assert torch.equal(mine.tower_attention, theirs.tower_attention)


def test_a_file_equals_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, finished = bundle("llava_onevision"), watch_finished(monkeypatch)
    path = tmp_path / "clip.mp4"
    write_video(video(PIECE + 9).frames, path, fps=1)
    with sttm.VideoChat(tiny.model, tiny.processor, sttm.STTM(keep=0.3), layer=1) as chat:
        watched = chat.watch(path)
        assert finished == [True]
        again = chat.watch(read_video(path))
    assert watched.tokens_out == again.tokens_out < again.tokens_in
    assert torch.equal(watched.cache.layers[-1].keys, again.cache.layers[-1].keys)
    assert watched.timings.process > 0
    assert watched.timings.encode > 0


def test_a_budget_of_pixels_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, finished = bundle("qwen3_vl"), watch_finished(monkeypatch)
    frames = np.random.default_rng(0).integers(0, 255, (4 * PIECE, 64, 96, 3), np.uint8)
    with sttm.VideoChat(tiny.model, tiny.processor) as chat:
        got = encode(chat, frames, monkeypatch, whole=False)
        assert finished == [True]
        assert_equal(got, encode(chat, frames, monkeypatch, whole=True))
    alone = open_grid(chat, frames[:PIECE])
    assert alone != open_grid(chat, frames)  # by itself a piece would be larger


def open_grid(chat: sttm.VideoChat, frames: Any) -> list[int]:
    shown: Video = video(len(frames))
    shown = Video(**{**vars(shown), "frames": frames})
    height_and_width: list[int] = chat.open(shown)[1]["video_grid_thw"][0, 1:].tolist()
    return height_and_width


def test_what_is_no_equal_is_encoded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor may look at the pixels: that shows when they come, and all are read again."""
    tiny, finished = bundle("qwen2_5_vl"), watch_finished(monkeypatch)
    processor = copy.copy(tiny.processor)
    own = type(processor.video_processor)

    class ByBrightness(own):  # type: ignore[misc, valid-type]
        def _preprocess(self, videos: Any, **options: Any) -> Any:
            if not videos[0].is_meta and bool(videos[0][-1].float().mean() > 250):
                videos = [each[..., :8] for each in videos]
            return super()._preprocess(videos, **options)

    processor.video_processor = copy.copy(processor.video_processor)
    processor.video_processor.__class__ = ByBrightness
    frames = video(2 * PIECE).frames.copy()
    frames[PIECE:] = 255
    with sttm.VideoChat(tiny.model, processor) as chat:
        got = encode(chat, frames, monkeypatch, whole=False)
        assert finished == [False]
        assert_equal(got, encode(chat, frames, monkeypatch, whole=True))


@pytest.mark.parametrize(
    "another", [lambda x: x.mean((0, 2, 3), keepdim=True), lambda x: x[:1]], ids=["mean", "first"]
)
def test_frames_that_depend_on_others_are_encoded_as_a_whole(
    another: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny, finished = bundle("llava_onevision"), watch_finished(monkeypatch)
    processor = copy.copy(tiny.processor)
    own = type(processor.video_processor)

    class LessAnother(own):  # type: ignore[misc, valid-type]
        def _preprocess(self, videos: Any, **options: Any) -> Any:
            others = [another(each.float()) for each in videos]
            videos = [(each - other).clamp(0, 255) for each, other in zip(videos, others)]
            return super()._preprocess(videos, **options)

    processor.video_processor = copy.copy(processor.video_processor)
    processor.video_processor.__class__ = LessAnother
    frames = video(2 * PIECE).frames.copy()
    frames[PIECE:] //= 2
    with sttm.VideoChat(tiny.model, processor) as chat:
        got = encode(chat, frames, monkeypatch, whole=False)
        assert finished == []
        assert_equal(got, encode(chat, frames, monkeypatch, whole=True))


METHODS = (
    sttm.STTM(spatial_threshold=0.0, temporal_threshold=0.3),
    sttm.STTM(keep=60, piece=16),
    sttm.STTM(keep=0.3, piece=7),
)


@pytest.mark.filterwarnings("ignore::sttm.errors.ContextWarning")
@pytest.mark.parametrize("positions", ["survived", "reassigned"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("count", "layer"), [(9, 1), (2 * PIECE + 7, 0), (2 * PIECE + 7, 1)])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_piecewise_equals_the_whole(
    name: str, count: int, layer: int, method: sttm.STTM, positions: str
) -> None:
    tiny, shown = bundle(name), video(count)
    options: Any = {"layer": layer, "positions": positions}
    with sttm.VideoChat(tiny.model, tiny.processor, method, **options) as chat:
        whole = chat.watch(shown, context="Spoken. ")
        watched = chat.watch(shown, context="Spoken. ", piecewise=True)
        assert_same(watched, whole)
        assert watched.sources == whole.sources
        answers = [each.ask("What?", max_new_tokens=4).ids for each in (watched, whole)]
    assert answers[0] == answers[1]


def test_piecewise_from_a_file(tmp_path: Path) -> None:
    tiny, path = bundle("llava_onevision"), tmp_path / "clip.mp4"
    told: list[str] = []
    write_video(video(PIECE + 9).frames, path, fps=1)

    def reader(file: Any, *, progress: Any, **sampling: Any) -> Video:
        return read_video(file, **sampling)

    readers: list[dict[str, Any]] = [{}, {"reader": reader}]
    for options in readers:
        with sttm.VideoChat(tiny.model, tiny.processor, METHODS[1], layer=0, **options) as chat:
            watched = chat.watch(
                path, piecewise=True, progress=lambda stage, *_: told.append(stage)
            )
            assert_same(watched, chat.watch(path))
        assert watched.source.path == str(path)
        assert watched.tokens_out == 60
    assert {"decode", "prefill"} <= set(told)


@pytest.mark.parametrize(
    ("name", "method", "shown", "told"),
    [
        ("llava_onevision", sttm.STTM(keep=60), video(9), "keep: got 60"),
        ("llava_onevision", METHODS[0], [video(9), video(9)], "piecewise: got 2 videos"),
        ("qwen3_vl", METHODS[0], video(9), "piecewise: got Qwen3VL"),
        ("smolvlm", METHODS[0], video(PIECE + 9), "piecewise: got SmolVLMProcessor"),
    ],
)
def test_piecewise_is_refused(name: str, method: sttm.STTM, shown: Any, told: str) -> None:
    tiny = bundle(name)
    with (
        sttm.VideoChat(tiny.model, tiny.processor, method, layer=0) as chat,
        pytest.raises(sttm.SttmError, match=told),
    ):
        chat.watch(shown, piecewise=True)


def test_positions_in_seconds_need_frames_at_a_known_rate(tmp_path: Path) -> None:
    """A file of 100 s of which 64 frames are kept: they are not 1 s apart, as the stream takes."""
    tiny, path = bundle("qwen2_5_vl"), tmp_path / "clip.mp4"
    write_video(video(200).frames, path, fps=2)
    with sttm.VideoChat(tiny.model, tiny.processor, METHODS[0], layer=1) as chat:
        for shown in (path, read_video(path, max_frames=64)):
            with pytest.raises(sttm.SttmError, match="how far apart the frames are"):
                chat.watch(shown, max_frames=64, piecewise=True)
