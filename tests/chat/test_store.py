"""A saved video answers as the watched one did; anything else is refused in words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import sttm
from sttm.errors import SavedCacheError
from tests.models.methods import PairMerge

from .tiny import FAMILIES, bundle, clip

QUESTION = "Which digit appears?"


def rewrite(path: Path, **changes: Any) -> None:
    """Change entries of a saved file's header."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sttm"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"sttm": json.dumps({**header, **changes})})


@pytest.mark.parametrize("method", [None, PairMerge()], ids=["all", "merged"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_loaded_video_answers_alike(name: str, method: Any, tmp_path: Path) -> None:
    tiny = bundle(name)
    chat = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1)
    video = chat.watch(clip(), context="Spoken: nothing. ")
    expected = video.ask(QUESTION, max_new_tokens=6).ids
    video.save(tmp_path / "clip.sttm")
    loaded = sttm.VideoChat(tiny.model, tiny.processor, layer=3).load(tmp_path / "clip.sttm")
    assert loaded.ask(QUESTION, max_new_tokens=6).ids == expected
    assert (loaded.tokens_in, loaded.tokens_out) == (video.tokens_in, video.tokens_out)
    assert loaded.source == video.source
    assert loaded.kv_bytes == video.kv_bytes
    for mine, theirs in zip(loaded.reports, video.reports, strict=True):
        assert mine.grid == theirs.grid
        assert torch.equal(mine.plan.group, theirs.plan.group)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.sttm"]


def test_a_loaded_video_can_be_saved_again(tmp_path: Path) -> None:
    tiny = bundle("llava_onevision")
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge())
    chat.watch(clip()).save(tmp_path / "a.sttm")
    chat.load(tmp_path / "a.sttm").save(tmp_path / "b.sttm")
    assert (tmp_path / "a.sttm").read_bytes() == (tmp_path / "b.sttm").read_bytes()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny = bundle("llava_onevision")
    path = tmp_path / "clip.sttm"
    sttm.VideoChat(tiny.model, tiny.processor, PairMerge()).watch(clip(2)).save(path)
    return path


def load(path: Path, family: str = "llava_onevision") -> None:
    tiny = bundle(family)
    sttm.VideoChat(tiny.model, tiny.processor).load(path)


def test_another_version_is_refused(saved: Path) -> None:
    rewrite(saved, format=99)
    with pytest.raises(SavedCacheError, match="got format 99, expected 1"):
        load(saved)


def test_another_model_is_refused(saved: Path) -> None:
    with pytest.raises(SavedCacheError, match="cache of another model"):
        load(saved, "internvl")


def test_other_weights_are_refused(saved: Path) -> None:
    weight = bundle("llava_onevision").model.lm_head.weight
    with torch.no_grad():
        kept = weight.clone()
        weight.add_(1.0)
    try:
        with pytest.raises(SavedCacheError, match="cache of another model"):
            load(saved)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_a_damaged_header_is_refused(saved: Path) -> None:
    rewrite(saved, layers="none")
    with pytest.raises(SavedCacheError, match="damaged header"):
        load(saved)


def test_missing_tensors_are_refused(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata, ids = file.metadata(), file.get_tensor("ids")
    save_file({"ids": ids}, saved, metadata=metadata)
    with pytest.raises(SavedCacheError, match="lacks"):
        load(saved)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all", b"\x80\x04K\x01."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.sttm"
    path.write_bytes(content)
    with pytest.raises(SavedCacheError, match="damaged file"):
        load(path)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(SavedCacheError, match="damaged file"):
        load(saved)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SavedCacheError, match="no such file"):
        load(tmp_path / "none.sttm")


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()
    tiny = bundle("llava_onevision")
    video = sttm.VideoChat(tiny.model, tiny.processor, PairMerge()).watch(clip(4))

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sttm.chat.store.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        video.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
