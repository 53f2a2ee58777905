"""A stored video answers as the watched one; another one never does."""

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sttm
from sttm.chat import VideoStore
from sttm.chat.cache_tensors import layer_tensors, unpacked
from sttm.errors import ConfigError, StoreWarning, VideoError
from sttm.models.cache import ReducedLayer
from sttm.nano.clips import make_clip, write_clip
from tests.models.methods import KeepEvery, PairMerge

from .test_identity import Plain
from .tiny import FAMILIES, build, bundle, clip

ROOT = Path(__file__).parents[2]
QUESTION = "Which digit appears?"
NAME = "llava_onevision"


def chat_of(method: Any = None, name: str = NAME, **options: Any) -> sttm.VideoChat:
    tiny = bundle(name)
    return sttm.VideoChat(tiny.model, tiny.processor, method, **options)


def answer(video: Any) -> tuple[int, ...]:
    ids: tuple[int, ...] = video.ask(QUESTION, max_new_tokens=6).ids
    return ids


@pytest.mark.parametrize("method", [None, PairMerge()], ids=["all", "merged"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_stored_video_answers_alike(name: str, method: Any, tmp_path: Path) -> None:
    chat = chat_of(method, name, layer=1)
    wanted = answer(chat.watch(clip(), context="Spoken: nothing. "))
    for _ in range(2):  # from memory, then from the disk
        store = VideoStore(tmp_path)
        for _ in range(2):
            found = store.watch(chat, clip(), context="Spoken: nothing. ")
            assert answer(found) == wanted
    assert (store.hits, store.misses) == (2, 0)
    assert store.verify() == []


def test_a_key_is_that_of_what_was_stored(tmp_path: Path) -> None:
    store, chat = VideoStore(tmp_path), chat_of(PairMerge())
    key = store.key(chat, clip(), fps=2)
    assert store.find(chat, key) is None
    wanted = answer(store.watch(chat, clip(), fps=2))
    found = VideoStore(tmp_path).find(chat, key)
    assert found is not None
    assert answer(found) == wanted
    (entry,) = store.entries()
    assert (entry.key, entry.where) == (key, "host")
    assert (entry.tokens_in, entry.tokens_out) == (found.tokens_in, found.tokens_out)
    assert entry.created <= entry.last_used
    assert store.remove(key)
    assert not store.remove(key)
    assert store.find(chat, key) is None
    assert store.entries() == VideoStore(tmp_path).entries() == []


def _other_weights() -> sttm.VideoChat:
    tiny = copy.deepcopy(bundle(NAME))
    with torch.no_grad():
        tiny.model.lm_head.weight.view(-1)[-7] += 1
    return sttm.VideoChat(tiny.model, tiny.processor, KeepEvery(2), layer=1)


def _other_processor() -> sttm.VideoChat:
    tiny = bundle(NAME)
    processor = copy.deepcopy(tiny.processor)
    processor.video_processor.image_mean = [0.1, 0.1, 0.1]
    return sttm.VideoChat(tiny.model, processor, KeepEvery(2), layer=1)


def _half() -> sttm.VideoChat:
    tiny = bundle(NAME)
    model = copy.deepcopy(tiny.model).bfloat16()
    return sttm.VideoChat(model, tiny.processor, KeepEvery(2), layer=1)


OTHER_CHATS: dict[str, Callable[[], sttm.VideoChat]] = {
    "family": lambda: chat_of(KeepEvery(2), "internvl", layer=1),
    "weights": _other_weights,
    "processor": _other_processor,
    "dtype": _half,
    "no method": lambda: chat_of(None),
    "budget": lambda: chat_of(KeepEvery(3), layer=1),
    "option": lambda: chat_of(KeepEvery(2, first=0), layer=1),
    "method": lambda: chat_of(PairMerge(), layer=1),
    "no dataclass": lambda: chat_of(Plain(step=2), layer=1),
    "layer": lambda: chat_of(KeepEvery(2), layer=2),
    "positions": lambda: chat_of(KeepEvery(2), layer=1, positions="survived"),
    "system": lambda: chat_of(KeepEvery(2), layer=1, system="Be brief."),
}
OTHER_ARGUMENTS: dict[str, dict[str, Any]] = {
    "content": {"video": clip(8, seed=1)},
    "length": {"video": clip(9)},
    "fps": {"fps": 2.0},
    "context": {"context": "Spoken: something. "},
}


@pytest.mark.parametrize("what", [*OTHER_CHATS, *OTHER_ARGUMENTS])
def test_another_video_never_answers(what: str, tmp_path: Path) -> None:
    """Everything is as before but for one thing: the video is watched, in memory and on disk."""
    store, chat = VideoStore(tmp_path), chat_of(KeepEvery(2), layer=1)
    store.watch(chat, clip())
    other = OTHER_CHATS.get(what, lambda: chat)()
    arguments = {"video": clip(), **OTHER_ARGUMENTS.get(what, {})}
    wanted = other.watch(**arguments)
    for again in (store, VideoStore(tmp_path)):
        before = again.misses
        found = again.watch(other, **arguments)
        assert again.misses == before + (again is store)
        for mine, theirs in zip(found.cache.layers, wanted.cache.layers, strict=True):
            assert torch.equal(mine.keys, theirs.keys)
    key = store.key(chat, clip())
    assert store.key(other, **arguments) != key
    if what in OTHER_CHATS and what not in ("processor", "layer", "positions", "system"):
        takes_any = what == "no method"
        for again in (store, VideoStore(tmp_path)):
            assert (again.find(other, key) is not None) == takes_any
    assert VideoStore(tmp_path).find(chat, key) is not None, "another chat's file was deleted"


def test_the_same_name_with_other_content(tmp_path: Path) -> None:
    path, store, chat = tmp_path / "clip.mp4", VideoStore(tmp_path / "store"), chat_of()
    seen = []
    for seed in (1, 2):
        write_clip(make_clip(seed, 3), path)
        os.utime(path, (0, 0))  # as old and as long, as far as anybody can see
        seen.append(store.watch(chat, path).cache.layers[-1].keys)
        assert torch.equal(seen[-1], chat.watch(path).cache.layers[-1].keys)
    assert not torch.equal(*seen)
    assert store.misses == 2
    other = path.rename(tmp_path / "renamed.mp4")
    found = store.watch(chat, other)
    assert (store.hits, found.source.path) == (1, str(other))


@pytest.mark.parametrize("other", [{"fps": 0.5}, {"max_frames": 2}, {"rule": "uniform"}])
def test_other_frames_of_the_same_file(tmp_path: Path, other: dict[str, Any]) -> None:
    path, chat = tmp_path / "clip.mp4", chat_of()
    write_clip(make_clip(1, 3), path)
    key = VideoStore().key(chat, path)
    assert VideoStore().key(chat, str(path), fps=1, max_frames=128) == key
    assert VideoStore().key(chat, path, **other) != key


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path, store, chat = tmp_path / "clip.mp4", VideoStore(tmp_path / "store"), chat_of()
    write_clip(make_clip(1, 3), path)

    def change(stage: str, done: int, total: int) -> None:
        if stage == "encode":
            write_clip(make_clip(2, 3), path)

    with pytest.raises(VideoError, match="changed while it was watched"):
        store.watch(chat, path, progress=change)
    assert store.entries() == []


def test_a_renamed_file_does_not_answer(tmp_path: Path) -> None:
    store, chat = VideoStore(tmp_path), chat_of()
    one, other = store.key(chat, clip()), store.key(chat, clip(seed=1))
    store.watch(chat, clip())
    (tmp_path / f"{one}.sttm").rename(tmp_path / f"{other}.sttm")
    again = VideoStore(tmp_path)
    assert "The file was renamed" in again.verify()[0]
    with pytest.warns(StoreWarning, match="The file was renamed"):
        assert again.find(chat, other) is None
    assert not [*tmp_path.glob("*.sttm")]


def test_files_that_were_saved_elsewhere_are_not_listed(tmp_path: Path) -> None:
    """Also one of words alone, which has no video that a list could name."""
    store, chat = VideoStore(tmp_path), chat_of()
    for name, shown in (("a", clip()), ("b", [])):
        chat.watch(shown).save(tmp_path / f"{name * 64}.sttm")
    assert store.entries() == VideoStore(tmp_path).entries() == []
    assert len(store.verify()) == 2


@pytest.mark.parametrize("key", ["", "../clip", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    store = VideoStore(tmp_path / "store")
    (tmp_path / "clip.sttm").touch()
    assert store.find(chat_of(), key) is None
    assert not store.remove(key)
    assert (tmp_path / "clip.sttm").exists()


def test_a_damaged_file_is_watched_again(tmp_path: Path) -> None:
    chat, first = chat_of(), VideoStore(tmp_path)
    wanted = answer(first.watch(chat, clip()))
    (file,) = tmp_path.glob("*.sttm")
    content = bytearray(file.read_bytes())
    content[-9] ^= 4
    file.write_bytes(content)
    store = VideoStore(tmp_path)
    assert len(store.verify()) == 1
    with pytest.warns(StoreWarning, match="does not match its checksum"):
        assert answer(store.watch(chat, clip())) == wanted
    assert store.verify() == []
    assert store.misses == 1


def test_half_written_files_are_dropped_at_the_start(tmp_path: Path) -> None:
    store, chat = VideoStore(tmp_path), chat_of()
    store.watch(chat, clip())
    (whole,) = tmp_path.glob("*.sttm")
    (tmp_path / f".{whole.name}.abc").write_bytes(whole.read_bytes()[:1000])
    (tmp_path / f"{'0' * 64}.sttm").write_bytes(whole.read_bytes()[:-1])
    (tmp_path / "notes.txt").touch()
    with pytest.warns(StoreWarning, match="2 files were half-written or damaged"):
        VideoStore(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {whole.name, ".lock", "notes.txt"}


def test_files_of_another_version_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    VideoStore(tmp_path).watch(chat_of(), clip())
    monkeypatch.setattr("sttm.chat.saved_video.FORMAT", 99)
    store = VideoStore(tmp_path)
    assert store.collect() == []
    assert store.entries() == []
    assert "got format 5, expected 99" in store.verify()[0]


def test_a_file_that_is_deleted_while_it_is_opened_was_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, chat = VideoStore(tmp_path, memory_bytes=0), chat_of()
    key = store.key(chat, clip())
    store.watch(chat, clip())

    def deleted_meanwhile(path: Path, **_: Any) -> Any:
        path.unlink()
        return torch.UntypedStorage.from_file(str(path), False, 8)  # what safetensors opens it with

    monkeypatch.setattr("sttm.chat.saved_video.safe_open", deleted_meanwhile)
    assert store.find(chat, key) is None


def _size(tmp_path: Path) -> int:
    VideoStore(tmp_path).watch(chat_of(), clip(4, seed=99))
    (file,) = tmp_path.glob("*.sttm")
    return file.stat().st_size


def test_the_least_recently_used_files_go_first(tmp_path: Path) -> None:
    size, chat = _size(tmp_path / "measured"), chat_of()
    folder = tmp_path / "store"
    store = VideoStore(folder, memory_bytes=0, disk_bytes=3 * size + 100)
    keys = [store.key(chat, clip(4, seed=seed)) for seed in range(5)]
    for seed in range(3):
        store.watch(chat, clip(4, seed=seed))
    assert store.find(chat, keys[0]) is not None  # so that the second one is the oldest
    store.watch(chat, clip(4, seed=3))
    assert [entry.key for entry in store.entries()] == [keys[3], keys[0], keys[2]]
    small = VideoStore(folder, disk_bytes=size + 100)
    assert len(small.entries()) == 3
    assert sorted(small.collect()) == sorted(f"{keys[i]}.sttm" for i in (0, 2))
    with pytest.warns(StoreWarning, match="expected at most the 9 of the store"):
        VideoStore(tmp_path / "none", disk_bytes=9).watch(chat, clip())
    assert not [*(tmp_path / "none").glob("*.sttm")]


def test_what_was_stored_now_stays_whatever_the_clocks_say(tmp_path: Path) -> None:
    size, chat = _size(tmp_path / "measured"), chat_of()
    store = VideoStore(tmp_path / "store", memory_bytes=0, disk_bytes=size + 100)
    store.watch(chat, clip(4, seed=0))
    (old,) = (tmp_path / "store").glob("*.sttm")
    os.utime(old, (2**32, 2**32))  # in a hundred years
    store.watch(chat, clip(4, seed=1))
    assert [entry.key for entry in store.entries()] == [store.key(chat, clip(4, seed=1))]


def test_memory_keeps_to_its_budget() -> None:
    chat = chat_of()
    size = chat.watch(clip(4)).nbytes
    store = VideoStore(memory_bytes=2 * size)
    keys = [store.key(chat, clip(4, seed=seed)) for seed in range(3)]
    for seed in (0, 1):
        store.watch(chat, clip(4, seed=seed))
    assert store.find(chat, keys[0]) is not None
    store.watch(chat, clip(4, seed=2))
    assert [entry.key for entry in store.entries()] == [keys[2], keys[0]]
    assert [entry.bytes for entry in store.entries()] == [size, size]
    assert store.find(chat, keys[1]) is None


def test_what_leaves_memory_is_on_the_disk(tmp_path: Path) -> None:
    chat, store = chat_of(PairMerge()), VideoStore(tmp_path, memory_bytes=0)
    wanted = answer(store.watch(chat, clip()))
    assert [entry.where for entry in store.entries()] == ["disk"]
    assert answer(store.watch(chat, clip())) == wanted
    assert store.hits == 1


def test_what_leaves_the_device_is_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: the CPU plays the device, so only the books are checked and not the copies."""
    monkeypatch.setattr("sttm.chat.video_memory._is_device", lambda device: True)
    chat = chat_of(PairMerge())
    size = chat.watch(clip(4)).nbytes
    store = VideoStore(device_bytes=size, memory_bytes=size)
    keys = [store.key(chat, clip(4, seed=seed)) for seed in range(3)]
    wanted = [answer(store.watch(chat, clip(4, seed=seed))) for seed in range(3)]
    assert [(e.key, e.where) for e in store.entries()] == [(keys[2], "device"), (keys[1], "host")]
    found = store.find(chat, keys[1])
    assert found is not None
    assert answer(found) == wanted[1]
    assert [(e.key, e.where) for e in store.entries()] == [(keys[1], "device"), (keys[2], "host")]


def test_a_state_moves_with_all_its_tensors() -> None:
    for name in FAMILIES:
        video = chat_of(PairMerge(), name, layer=1).watch(clip())
        moved = video.state().to(["meta"] * len(video.cache.layers))
        for layer in moved.cache.layers:
            tensors = [v for v in vars(layer).values() if isinstance(v, torch.Tensor)]
            tensors += [t for v in vars(layer).values() if isinstance(v, dict) for t in v.values()]
            found = {t.device.type for t in tensors if isinstance(t, torch.Tensor)}
            assert found == {"meta"}
            assert layer.device == torch.device("meta")
        assert moved.nbytes == video.nbytes >= video.kv_bytes
        assert answer(video)


def test_a_full_disk_does_not_lose_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    store, chat = VideoStore(tmp_path), chat_of()
    monkeypatch.setattr("sttm.chat.saved_video.save_file", full_disk)
    with pytest.warns(StoreWarning, match=r"No space left.*is not on the disk"):
        store.watch(chat, clip())
    assert [entry.where for entry in store.entries()] == ["host"]
    assert VideoStore(tmp_path).entries() == []


@pytest.mark.parametrize("kv_dtype", ["bfloat16", "float8"])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen3_5"])
def test_rounded_videos_are_the_same_everywhere(name: str, kv_dtype: Any, tmp_path: Path) -> None:
    chat = chat_of(PairMerge(), name, layer=1)
    exact = VideoStore(tmp_path).watch(chat, clip())
    watched = VideoStore(tmp_path, kv_dtype=kv_dtype).watch(chat, clip())
    store = VideoStore(tmp_path, kv_dtype=kv_dtype)
    loaded = store.watch(chat, clip())
    assert store.hits == 1
    sizes = {e.key: e.bytes for e in VideoStore(tmp_path).entries()}
    assert sizes[store.key(chat, clip())] < max(sizes.values())
    for one, two, three in zip(*(v.cache.layers for v in (watched, loaded, exact)), strict=True):
        for part in ("keys", "values"):
            if not hasattr(one, part):
                continue
            rounded, whole = getattr(one, part), getattr(three, part)
            assert torch.equal(rounded, getattr(two, part))
            assert rounded.dtype == whole.dtype
            steps = {"bfloat16": 2**-8, "float8": 2**-4}[kv_dtype]
            assert not torch.equal(rounded, whole)
            most = whole.abs().amax(-2, keepdim=True)
            assert bool(((rounded - whole).abs() <= steps * most).all())
    assert answer(watched) == answer(loaded)


def test_channels_of_any_size_fit_into_float8() -> None:
    layer = copy.deepcopy(chat_of().watch(clip()).cache.layers[0])
    layer.keys = layer.keys * torch.logspace(-6, 6, layer.keys.shape[-1])
    layer.values = torch.zeros_like(layer.values)
    found = unpacked(layer_tensors(layer, "float8"), "float8", torch.float32)
    assert bool((found["keys"] - layer.keys).abs().max() < layer.keys.abs().max() / 16)
    torch.testing.assert_close(found["keys"], layer.keys, rtol=0.07, atol=1e-7)
    assert not found["values"].any()


def test_a_mask_of_video_entries_is_saved(tmp_path: Path) -> None:
    chat = chat_of(PairMerge(), layer=1)
    video = chat.watch(clip())
    for layer in video.cache.layers:
        if isinstance(layer, ReducedLayer) and layer.active:
            layer.video_mask = torch.arange(layer.num_entries())[None] % 3 == 0
    video.save(tmp_path / "a.sttm")
    loaded = chat.load(tmp_path / "a.sttm")
    masks = [layer.video_mask for layer in loaded.cache.layers if hasattr(layer, "video_mask")]
    kept = [mask for mask in masks if mask is not None]
    assert kept
    assert all(torch.equal(mask[0], torch.arange(mask.shape[1]) % 3 == 0) for mask in kept)


def test_threads_watch_a_video_once() -> None:
    store, chat = VideoStore(), chat_of(PairMerge())
    wanted = [answer(chat.watch(clip(4, seed=seed))) for seed in range(3)]
    found: list[Any] = [None] * 12

    def work(place: int) -> None:
        found[place] = answer(store.watch(chat, clip(4, seed=place % 3)))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [wanted[place % 3] for place in range(12)]
    assert (store.hits, store.misses) == (9, 3)


def test_a_store_keeps_no_model_alive() -> None:
    import gc
    import weakref

    tiny = build(copy.deepcopy(bundle(NAME).model.config), bundle(NAME).processor)
    store, chat = VideoStore(), sttm.VideoChat(tiny.model, tiny.processor)
    store.watch(chat, clip())
    gone = weakref.ref(tiny.model)
    del tiny, chat
    gc.collect()
    assert gone() is None
    assert len(store.entries()) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"memory_bytes": -1}, "memory_bytes: got -1"),
        ({"disk_bytes": 1.5}, "disk_bytes: got 1.5"),
        ({"device_bytes": True}, "device_bytes: got True"),
        ({"kv_dtype": "bfloat16"}, "without a folder"),
        ({"kv_dtype": "int4", "folder": "."}, "expected bfloat16 or float8"),
    ],
)
def test_bad_options(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        VideoStore(**options)


def test_bad_arguments(tmp_path: Path) -> None:
    store, chat = VideoStore(), chat_of()
    with pytest.raises(ConfigError, match="fps"):
        store.watch(chat, clip(), fps=0)
    with pytest.raises(ConfigError, match=r"numpy\.stack"):
        store.watch(chat, [np.zeros(3)])
    with pytest.raises(ConfigError, match="no video"):
        store.key(chat, [])
    with pytest.raises(VideoError, match="no such video file"):
        store.watch(chat, tmp_path / "none.mp4")
    with pytest.raises(ConfigError, match="context: got int"):
        store.watch(chat, clip(), context=3)  # type: ignore[arg-type]


def _run(*words: str) -> str:
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_acknowledged_is_lost_when_a_process_is_killed() -> None:
    """Ten moments here; ``python -m tests.chat.killed --moments 50`` for more."""
    assert _run("tests.chat.killed", "--moments", "10").startswith("10 kills, ")


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """Both write, find and delete the same few videos at the same time."""
    command = [sys.executable, "-m", "tests.chat.sharing", str(tmp_path)]
    both = [
        subprocess.Popen([*command, str(seed)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for seed in (0, 1)
    ]
    for process in both:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    store = VideoStore(tmp_path)
    assert store.verify() == []
    assert not [*tmp_path.glob(".*.sttm.*")]
