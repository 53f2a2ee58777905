"""Folders of features: written whole or not at all, gone on with, checked, and refused."""

import errno
import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import sttm
from sttm.errors import ConfigError, UnsupportedModelError, VideoError, WriteError
from sttm.evaluation.features import (
    Extraction,
    ExtractPlan,
    Failure,
    FeatureFolder,
    StoredVideo,
    VideoJob,
    verify,
)
from sttm.evaluation.features.extract import Outcome
from sttm.evaluation.features.manifest import MANIFEST, file_name
from sttm.video import Sampling, Video

from .test_replay import assert_same, logits
from .tiny import bundle, files, video

SAMPLING = Sampling(fps=1.0, max_frames=4)


def pair(name: str = "llava_onevision") -> tuple[Any, Any]:
    """A loader."""
    tiny = bundle(name)
    return tiny.model, tiny.processor


def extract(
    out: Path,
    jobs: Sequence[VideoJob],
    *,
    name: str = "llava_onevision",
    sampling: Sampling = SAMPLING,
    attention: bool = False,
    stop: bool = False,
) -> list[Outcome]:
    """Extract what is missing; return what came of it."""
    plan = ExtractPlan(out, sampling, attention)
    with Extraction(plan, jobs, plan.settings(*pair(name)), {"model": name}) as extraction:
        return list(extraction.run(partial(pair, name), stop=stop))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files."""
    return files(tmp_path_factory.mktemp("clips"), 3)


@pytest.fixture
def jobs(clips: list[Path]) -> list[VideoJob]:
    """A job for each file."""
    return [VideoJob.of_file(path) for path in clips]


@pytest.mark.parametrize("name", ["llava_onevision", "qwen3_vl"])
def test_features_stand_for_the_videos(
    name: str, jobs: list[VideoJob], clips: list[Path], tmp_path: Path
) -> None:
    done = extract(tmp_path, jobs, name=name)
    assert all(isinstance(video, StoredVideo) for video in done)
    folder = FeatureFolder.open(tmp_path, bundle(name).model, sampling=SAMPLING)
    assert folder.video_ids == ("clip 0", "clip 1", "clip 2")
    assert len(folder) == 3
    assert "clip 3" not in folder
    chat = sttm.VideoChat(*pair(name), sttm.STTM(keep=0.5), layer=1)
    for path in clips:
        again = folder.encoded(chat, path.stem, context="So: ")
        encoded = chat.encode(path, fps=1.0, max_frames=4, context="So: ")
        assert_same(encoded, again)
        assert torch.equal(logits(chat, encoded), logits(chat, again))
        other = folder.encoded(chat, path.stem)
        assert_same(chat.encode(path, fps=1.0, max_frames=4), other)


def test_the_manifest(jobs: list[VideoJob], clips: list[Path], tmp_path: Path) -> None:
    extract(tmp_path, jobs)
    first, *lines = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert first["info"] == {"model": "llava_onevision"}
    settings = first["settings"]
    assert (settings["model_type"], settings["dtype"]) == ("llava_onevision", "float32")
    assert (settings["rule"], settings["fps"], settings["max_frames"]) == ("llava", 1.0, 4)
    assert settings["processor.size"] == {"height": 10, "width": 10}
    assert [line["video_id"] for line in lines] == [path.stem for path in clips]
    assert [line["source"] for line in lines] == [str(path) for path in clips]
    assert lines[0]["timestamps"] == [0.0, 1.0, 2.0, 3.0]
    for line, path in zip(lines, clips, strict=True):
        assert line["source_size"] == path.stat().st_size
        assert (tmp_path / line["file"]).stat().st_size == line["size"]
    assert [problem for _, problem in verify(tmp_path)] == ["", "", ""]


def test_going_on(jobs: list[VideoJob], tmp_path: Path) -> None:
    assert len(extract(tmp_path, jobs[:2])) == 2
    manifest = (tmp_path / MANIFEST).read_bytes()
    assert extract(tmp_path, jobs[:2]) == []
    assert (tmp_path / MANIFEST).read_bytes() == manifest
    (third,) = extract(tmp_path, jobs)
    assert third.video_id == "clip 2"
    # What is gone, or of another size, is done again.
    (tmp_path / file_name("clip 0")).unlink()
    (tmp_path / file_name("clip 1")).write_bytes(b"half")
    assert {video.video_id for video in extract(tmp_path, jobs)} == {"clip 0", "clip 1"}
    assert [problem for _, problem in verify(tmp_path)] == ["", "", ""]


def test_a_file_that_was_replaced_is_done_again(clips: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "clip.mp4"
    copy.write_bytes(clips[0].read_bytes())
    out = tmp_path / "features"
    (before,) = extract(out, [VideoJob.of_file(copy)])
    copy.write_bytes(clips[2].read_bytes())
    (after,) = extract(out, [VideoJob.of_file(copy)])
    assert isinstance(before, StoredVideo)
    assert isinstance(after, StoredVideo)
    assert before.sha256 != after.sha256
    assert len(FeatureFolder.open(out, pair()[0])) == 1


def test_a_manifest_that_was_cut_off(jobs: list[VideoJob], tmp_path: Path) -> None:
    extract(tmp_path, jobs)
    path = tmp_path / MANIFEST
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert len(FeatureFolder.open(tmp_path, pair()[0])) == 2
    assert [video.video_id for video in extract(tmp_path, jobs)] == ["clip 2"]
    path.write_bytes(whole[:40])  # killed while its first line was written
    assert len(extract(tmp_path, jobs)) == 3


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.evaluation.features.test_extract import VideoJob, extract
jobs = [VideoJob.of_file(path) for path in sorted(Path({clips!r}).iterdir())]
replace, count = Path.replace, 0
def kill(self, target):
    global count
    count += 1
    if count == 2:  # half way through the second video: written, not yet in place
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = kill
extract(Path({out!r}), jobs)
"""


def test_kill_9(jobs: list[VideoJob], clips: list[Path], tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    code = KILLED.format(root=root, clips=str(clips[0].parent), out=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "videos").glob(".*"))) == 1
    assert FeatureFolder.open(tmp_path, pair()[0]).video_ids == ("clip 0",)
    first = (tmp_path / file_name("clip 0")).stat().st_mtime_ns
    assert [video.video_id for video in extract(tmp_path, jobs)] == ["clip 1", "clip 2"]
    assert (tmp_path / file_name("clip 0")).stat().st_mtime_ns == first
    assert list((tmp_path / "videos").glob(".*")) == []
    assert [problem for _, problem in verify(tmp_path)] == ["", "", ""]


def test_unreadable_videos(clips: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("this is no video")
    jobs = [VideoJob.of_file(path) for path in (bad, clips[0], tmp_path / "missing.mp4")]
    out = tmp_path / "features"
    first, second, third = extract(out, jobs)
    assert isinstance(first, Failure)
    assert first.video_id == "bad"
    assert isinstance(second, StoredVideo)
    assert isinstance(third, Failure)
    assert "no such video file" in third.error
    with pytest.raises(VideoError, match="--on-error skip goes on without it"):
        extract(out, jobs, stop=True)
    assert FeatureFolder.open(out, pair()[0]).video_ids == ("clip 0",)
    # A video that is mended is done in the next run.
    bad.write_bytes(clips[1].read_bytes())
    assert [type(outcome) for outcome in extract(out, jobs)] == [StoredVideo, Failure]


def test_the_disk_is_full(
    jobs: list[VideoJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = Path.write_bytes, 0

    def full(path: Path, content: bytes) -> int:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"No space left on device.*Make room, then run"):
        extract(tmp_path, jobs)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["clip%200.safetensors"]
    assert FeatureFolder.open(tmp_path, pair()[0]).video_ids == ("clip 0",)
    assert len(extract(tmp_path, jobs)) == 2


def test_a_folder_that_cannot_be_made(jobs: list[VideoJob], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be made.*Choose another --out"):
        extract(tmp_path / "file", jobs)


def test_two_runs_in_one_folder(jobs: list[VideoJob], tmp_path: Path) -> None:
    plan = ExtractPlan(tmp_path, SAMPLING)
    settings = plan.settings(*pair())
    with (
        Extraction(plan, jobs, settings, {}),
        pytest.raises(ConfigError, match="another run is writing"),
    ):
        Extraction(plan, jobs, settings, {})


def test_two_videos_of_one_name(clips: list[Path], tmp_path: Path) -> None:
    twins = [VideoJob.of_file(clips[0]), VideoJob.of_file(tmp_path / clips[0].name)]
    with pytest.raises(ConfigError, match="with the same id 'clip 0'"):
        extract(tmp_path, twins)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "swap"])
def test_damaged_features(damage: str, jobs: list[VideoJob], tmp_path: Path) -> None:
    extract(tmp_path, jobs)
    path, other = (tmp_path / file_name(video_id) for video_id in ("clip 1", "clip 2"))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-8])
    elif damage == "swap":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
    folder = FeatureFolder.open(tmp_path, pair()[0])
    chat = sttm.VideoChat(*pair())
    with pytest.raises(VideoError, match=r"clip%201\.safetensors"):
        folder.encoded(chat, "clip 1")
    assert folder.encoded(chat, "clip 0").tokens == 36
    problems = {stored.video_id: problem for stored, problem in verify(tmp_path)}
    assert [bool(problems[f"clip {i}"]) for i in range(3)] == [False, True, False]


def test_unknown_videos(jobs: list[VideoJob], tmp_path: Path) -> None:
    extract(tmp_path, jobs[:1])
    folder = FeatureFolder.open(tmp_path, pair()[0])
    with pytest.raises(VideoError, match=r"no features of video 'clip O'.*mean 'clip 0'"):
        folder.encoded(sttm.VideoChat(*pair()), "clip O")


def test_features_of_something_else_are_refused(
    jobs: list[VideoJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(tmp_path, jobs[:1])
    model, processor = pair()
    with pytest.raises(ConfigError, match=r"model_type 'llava_onevision'.*has 'internvl'"):
        FeatureFolder.open(tmp_path, bundle("internvl").model)
    with pytest.raises(ConfigError, match="max_frames 4, but this run has 8"):
        FeatureFolder.open(tmp_path, model, sampling=Sampling(max_frames=8))
    with pytest.raises(ConfigError, match="rule 'llava', but this run has 'qwen'"):
        FeatureFolder.open(tmp_path, model, sampling=Sampling("qwen", max_frames=4))
    folder = FeatureFolder.open(tmp_path, model)
    chat = sttm.VideoChat(model, processor)
    folder.encoded(chat, "clip 0")
    try:
        with pytest.raises(ConfigError, match=r"dtype 'float32'.*has 'bfloat16'"):
            FeatureFolder.open(tmp_path, model.to(torch.bfloat16))
    finally:
        model.to(torch.float32)
    weight = model.lm_head.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] += 1
    with pytest.raises(ConfigError, match=r"weights '\w+' \(made with the model 'llava_onevision'"):
        FeatureFolder.open(tmp_path, model)
    with torch.no_grad():
        weight.copy_(kept)
    other = type(processor)(
        processor.image_processor,
        processor.tokenizer,
        type(processor.video_processor)(size={"height": 12, "width": 12}),
        num_image_tokens=25,
        chat_template=processor.chat_template,
    )
    with pytest.raises(ConfigError, match=r"processor\.size \{'height': 10.*has \{'height': 12"):
        folder.encoded(sttm.VideoChat(model, other), "clip 0")
    other_model = sttm.VideoChat(*pair("internvl"))
    with pytest.raises(ConfigError, match="model_type"):
        folder.encoded(other_model, "clip 0")


def test_a_folder_is_not_filled_with_something_else(jobs: list[VideoJob], tmp_path: Path) -> None:
    extract(tmp_path, jobs[:1])
    before = (tmp_path / MANIFEST).read_bytes()
    for other in ({"name": "internvl"}, {"sampling": Sampling()}, {"attention": True}):
        with pytest.raises(ConfigError, match="got features with"):
            extract(tmp_path, jobs, **other)
    assert (tmp_path / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("method", ["visionzip", "fastvid", "holitom"])
def test_the_towers_attention(method: str, clips: list[Path], tmp_path: Path) -> None:
    job = VideoJob.of_file(clips[0])
    for name in ("llava_onevision", "qwen2_5_vl"):
        extract(tmp_path / name, [job], name=name, attention=True)
        chat = sttm.VideoChat(*pair(name), sttm.get_method(method, keep=0.5), layer=1)
        folder = FeatureFolder.open(tmp_path / name, chat.model)
        folder.check_method(chat.method)
        encoded = chat.encode(clips[0], fps=1.0, max_frames=4)
        again = folder.encoded(chat, "clip 0")
        for mine, theirs in zip(
            encoded.features.sttm_videos, again.features.sttm_videos, strict=True
        ):
            assert torch.equal(mine.tower_attention, theirs.tower_attention)
        assert torch.equal(logits(chat, encoded), logits(chat, again))


def test_without_the_towers_attention(jobs: list[VideoJob], tmp_path: Path) -> None:
    extract(tmp_path, jobs[:1])
    chat = sttm.VideoChat(*pair(), sttm.get_method("visionzip", keep=0.5), layer=1)
    folder = FeatureFolder.open(tmp_path, chat.model)
    folder.check_method(None)
    folder.check_method(sttm.STTM(keep=0.5))
    with pytest.raises(ConfigError, match=r"'visionzip' needs.*--with-attention"):
        folder.encoded(chat, "clip 0")
    with pytest.raises(UnsupportedModelError, match="expected a LLaVA or Qwen-VL model"):
        extract(tmp_path / "internvl", jobs, name="internvl", attention=True)


def test_work_done_elsewhere(jobs: list[VideoJob], tmp_path: Path) -> None:
    """An executor gets everything pickled, and may lose a worker and give results in any order."""

    def elsewhere(setup: Any, some: Sequence[VideoJob]) -> Iterator[Outcome]:
        setup, some = pickle.loads(pickle.dumps((setup, some)))
        worker = setup()
        worker(some[1])  # a worker that was lost when its file was written
        for job in reversed(some):
            yield from pickle.loads(pickle.dumps(worker(job)))

    plan = ExtractPlan(tmp_path, SAMPLING)
    with Extraction(plan, jobs, plan.settings(*pair()), {}) as extraction:
        done = list(extraction.run(pair, execute=elsewhere))
    assert [video.video_id for video in done] == ["clip 2", "clip 1", "clip 0"]
    assert [problem for _, problem in verify(tmp_path)] == ["", "", ""]


def made(seed: int) -> Video:
    """A video that is made."""
    return video(4, seed)


def test_videos_that_are_made(tmp_path: Path) -> None:
    jobs = [VideoJob(f"a/../{seed}", partial(made, seed)) for seed in range(2)]
    extract(tmp_path, jobs)
    assert extract(tmp_path, jobs) == []
    folder = FeatureFolder.open(tmp_path, pair()[0])
    assert folder.video_ids == ("a/../0", "a/../1")
    chat = sttm.VideoChat(*pair())
    assert_same(chat.encode(made(1)), folder.encoded(chat, "a/../1"))


@pytest.mark.parametrize("video_id", ["..", "a/b", "\0", "ü" * 300, "-", "a b", "x" * 300])
def test_any_id_is_a_file_name(video_id: str, tmp_path: Path) -> None:
    path = tmp_path / file_name(video_id)
    assert path.parent == tmp_path / "videos"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert path.resolve().parent == (tmp_path / "videos").resolve()
    assert file_name(video_id) != file_name(video_id + "x")


@pytest.mark.parametrize("content", ["", "{}\n", "text\n", '{"format": 1, "settings": {}}\n'])
def test_other_manifests_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ConfigError, match=MANIFEST):
        FeatureFolder.open(tmp_path, pair()[0])


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got a folder without features"):
        FeatureFolder.open(tmp_path, pair()[0])
    with pytest.raises(ConfigError, match="got no such folder"):
        FeatureFolder.open(tmp_path / "nowhere", pair()[0])
