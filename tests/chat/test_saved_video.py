"""A saved video answers as the watched one did; anything else is refused in words."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import sttm
from sttm.chat.identity import method_key
from sttm.chat.saved_video import digest
from sttm.errors import SavedCacheError, WriteError
from tests.models.methods import KeepEvery, PairMerge

from .tiny import FAMILIES, bundle, clip

QUESTION = "Which digit appears?"


def rewrite(path: Path, **changes: Any) -> None:
    """Change entries of a saved file's header."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["sttm"].partition(" ")[2])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = json.dumps({**header, **changes})
    save_file(tensors, path, metadata={"sttm": f"{digest(text, tensors)} {text}"})


@pytest.mark.parametrize(
    "method", [None, PairMerge(), sttm.methods.Identity()], ids=["all", "merged", "kept"]
)
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
    with pytest.raises(SavedCacheError, match="got format 99, expected 5"):
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
        text, ids = file.metadata()["sttm"].partition(" ")[2], file.get_tensor("ids")
    save_file({"ids": ids}, saved, metadata={"sttm": f"{digest(text, {'ids': ids})} {text}"})
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

    monkeypatch.setattr("sttm.chat.saved_video.save_file", full_disk)
    with pytest.raises(WriteError, match="No space left"):
        video.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("seed", range(40))
def test_a_flipped_bit_anywhere_is_refused(saved: Path, seed: int) -> None:
    """One answer changed, or a word of the header, and nothing else would have told."""
    random = np.random.default_rng(seed)
    content = bytearray(saved.read_bytes())
    place = int(random.integers(len(content)))
    content[place] ^= 1 << int(random.integers(8))
    saved.write_bytes(content)
    with pytest.raises(SavedCacheError):
        load(saved)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_are_refused(saved: Path, data: st.DataObject) -> None:
    """Bytes overwritten, left out or put in, of any number and anywhere."""
    whole = saved.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    gone = data.draw(st.integers(0, 3000))
    put = data.draw(st.binary(max_size=3000))
    damaged = whole[:place] + put + whole[place + gone :]
    target = saved.with_name("damaged.sttm")
    target.write_bytes(damaged)
    if damaged == whole:
        return
    with pytest.raises(SavedCacheError):
        load(target)


def test_swapped_tensors_are_refused(saved: Path) -> None:
    """The bytes are all there, under each other's names."""
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    one, other = "layer.0.keys", "layer.0.values"
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, saved, metadata=metadata)
    with pytest.raises(SavedCacheError, match="checksum"):
        load(saved)


def test_another_dtype_is_refused_by_name(saved: Path) -> None:
    tiny = bundle("llava_onevision")
    half = copy.deepcopy(tiny.model).bfloat16()
    with pytest.raises(SavedCacheError, match=r"torch\.float32, expected torch\.bfloat16"):
        sttm.VideoChat(half, tiny.processor).load(saved)


def test_half_precision_is_saved_as_it_is(tmp_path: Path) -> None:
    tiny = bundle("llava_onevision")
    half = copy.deepcopy(tiny.model).bfloat16()
    chat = sttm.VideoChat(half, tiny.processor, PairMerge())
    video = chat.watch(clip())
    video.save(tmp_path / "a.sttm")
    wanted = video.ask(QUESTION, max_new_tokens=6).ids
    assert chat.load(tmp_path / "a.sttm").ask(QUESTION, max_new_tokens=6).ids == wanted


def test_another_method_is_refused_by_name(saved: Path) -> None:
    tiny = bundle("llava_onevision")
    with pytest.raises(
        SavedCacheError, match=r"reduced by pair_merge\(\), expected this chat's keep_every"
    ):
        sttm.VideoChat(tiny.model, tiny.processor, KeepEvery(2)).load(saved)
    one, other = sttm.STTM(keep=0.3), sttm.STTM(keep=0.2)
    assert method_key(one) == method_key(sttm.STTM(keep=0.3)) != method_key(other)
    assert method_key(None) is None


@pytest.mark.parametrize("kind", ["folder", "fifo", "missing folder"])
def test_only_files_are_replaced(saved: Path, kind: str) -> None:
    tiny = bundle("llava_onevision")
    video = sttm.VideoChat(tiny.model, tiny.processor).load(saved)
    target = saved.with_name("target")
    if kind == "folder":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target = target / "a.sttm"
    with pytest.raises(WriteError, match=str(target)):
        video.save(target)
    assert target.exists() == (kind != "missing folder")
    assert not target.is_file()


def test_a_link_is_followed(saved: Path) -> None:
    tiny = bundle("llava_onevision")
    video = sttm.VideoChat(tiny.model, tiny.processor).load(saved)
    link, place = saved.with_name("link.sttm"), saved.with_name("place.sttm")
    link.symlink_to(place)
    video.save(link)
    assert link.is_symlink()
    assert place.read_bytes() == saved.read_bytes()
