"""What models are told about when frames show: as published where that is true."""

import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

import sttm
from sttm.chat.prompt import _metadata, time_instruction
from sttm.evaluation.features.replay import record
from sttm.evaluation.features.stored import from_bytes, to_bytes
from sttm.video import Sampling, Video, qwen_indices
from tests.chat.tiny import bundle, clip

TIMES = (0.0, 5.0, 15.2, 20.0, 21.1, 22.2, 23.3, 23.9)  # of frames 0, 1, 3, 4, 15, 26, 37, 43


def video(times: tuple[float, ...] | None = None, fps: float = 10.0, every: int = 10) -> Video:
    frames = clip(8)
    indices = tuple(every * place for place in range(len(frames)))
    even = tuple(index / fps for index in indices)
    return Video(
        frames=frames,
        timestamps=times or even,
        indices=indices,
        duration=(times or even)[-1] + 0.1 - (times or even)[0],
        fps=fps,
        total_frames=indices[-1] + 1,
        path="a.mkv",
        sampling=Sampling(),
    )


def told(made: Video) -> list[float]:
    """Read the times in the prompt of Qwen3-VL, one per two frames."""
    tiny = bundle("qwen3_vl")
    ids = sttm.VideoChat(tiny.model, tiny.processor).watch(made).ids
    text = tiny.processor.tokenizer.decode(ids)
    return [float(time) for time in re.findall(r"<([\d.]+) seconds>", text)]


def middles(times: tuple[float, ...]) -> list[float]:
    return [(first + second) / 2 for first, second in zip(times[::2], times[1::2], strict=True)]


@pytest.mark.parametrize("start", [0.0, 5.0])
def test_times_of_a_variable_rate_are_told_as_they_are(start: float) -> None:
    times = tuple(start + time for time in TIMES)
    assert told(video(times)) == pytest.approx(middles(times), abs=0.051)


def test_times_of_a_constant_rate_after_sound_are_told_as_they_are() -> None:
    times = tuple(5.0 + place for place in range(8))
    assert told(video(times)) == pytest.approx(middles(times), abs=0.051)


@pytest.mark.parametrize("jitter", [0.0, 0.04])
@pytest.mark.parametrize("fps", [10.0, 30000 / 1001])
def test_constant_rates_are_told_to_the_last_bit_as_published(jitter: float, fps: float) -> None:
    made = video(fps=fps)
    made = replace(made, timestamps=tuple(time + jitter for time in made.timestamps))
    assert asdict(_metadata(made)) == {
        "total_num_frames": 71,
        "fps": fps,
        "width": 12,
        "height": 12,
        "duration": made.duration,
        "video_backend": None,
        "frames_indices": list(made.indices),
    }
    times = ",".join(f"{index / fps:.2f}s" for index in made.indices)
    assert time_instruction(made) == (
        f"The video lasts for {71 / fps:.2f} seconds, and 8 frames are uniformly sampled from it. "
        f"These frames are located at {times}. "
        "Please answer the following questions related to this video.\n"
    )


def test_llava_is_told_the_times_of_a_variable_rate_too() -> None:
    made = video(tuple(5.0 + time for time in TIMES))
    assert time_instruction(made).startswith(
        "The video lasts for 29.00 seconds, and 8 frames are uniformly sampled from it. These "
        "frames are located at 5.00s,10.00s,20.20s,25.00s,26.10s,27.20s,28.30s,28.90s. Please"
    )


def test_the_rate_of_the_sample_stays_what_it_is() -> None:
    """Qwen2.5-VL spaces its frames by it: frames over seconds, whatever the clock."""
    for made in (video(TIMES), video(tuple(5.0 + time for time in TIMES))):
        assert _metadata(made).sampled_fps == pytest.approx(8 / 24.0)
        tiny = bundle("qwen2_5_vl")
        seen = sttm.VideoChat(tiny.model, tiny.processor).encode(made)
        assert seen.inputs["second_per_grid_ts"] == pytest.approx([2 * 24.0 / 8], rel=1e-3)


def test_a_frame_that_is_repeated_keeps_its_time() -> None:
    indices = qwen_indices(3, 0.1, 0.1, 8)
    made = replace(
        video(),
        frames=clip(4),
        indices=indices,
        timestamps=(0.0, 12.0, 30.0, 30.0),
        total_frames=3,
        duration=40.0,
        fps=0.075,
    )
    assert told(made) == pytest.approx([6.0, 30.0], abs=0.051)


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_saved_and_extracted_videos_tell_the_same(name: str) -> None:
    tiny = bundle(name)
    made = video(tuple(5.0 + time for time in TIMES))
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    with torch.no_grad():
        again = from_bytes(to_bytes(record(chat, made)), "a")
    assert again.video.timestamps == made.timestamps
    assert time_instruction(again.video) == time_instruction(made)
    metadata: Any = again.processed.metadata
    if metadata is not None:
        ticks = np.array(metadata["frames_indices"]) / metadata["fps"]
        assert ticks == pytest.approx(made.timestamps)
