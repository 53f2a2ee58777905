"""Written complete or not at all; interrupted conversions go on."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sttm import checkpoints
from sttm.checkpoints import writing
from sttm.checkpoints.mapping import Move
from sttm.checkpoints.shards import read_headers
from sttm.checkpoints.writing import compare, plan_shards
from sttm.errors import ConfigError

from .original import Original, write_original

SMALL = 50_000


def plan(original: Original, **options: str) -> checkpoints.Conversion:
    return checkpoints.plan_conversion(str(original.folder), **options)


def fail_after(monkeypatch: pytest.MonkeyPatch, shards: int, error: BaseException) -> None:
    """Let writing fail once some shards are written."""
    left = [shards]

    def save(*args: Any, **kwargs: Any) -> None:
        if not left[0]:
            raise error
        left[0] -= 1
        save_file(*args, **kwargs)

    monkeypatch.setattr(writing, "save_file", save)


def test_shards_keep_to_their_size(original: Original) -> None:
    moves = plan(original).tensors.moves
    shards = plan_shards(moves, SMALL)
    assert len(shards) > 2
    assert tuple(move for shard in shards for move in shard.moves) == moves
    assert all(shard.nbytes <= SMALL or len(shard.moves) == 1 for shard in shards)
    assert [shard.name for shard in plan_shards(moves, 10**9)] == ["model.safetensors"]


def test_a_large_tensor_has_a_shard_of_its_own() -> None:
    sizes = {"a": 3, "b": 3, "large": 9, "c": 3, "d": 4}
    moves = [Move(name, (n,), torch.uint8, None, None, n) for name, n in sizes.items()]
    shards = plan_shards(moves, 8)
    assert [shard.name for shard in shards] == [
        f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    assert sorted(shard.nbytes for shard in shards) == [6, 7, 9]
    assert sorted(move.target for shard in shards for move in shard.moves) == sorted(sizes)


def test_a_converted_folder_is_complete(converted: Path) -> None:
    names = {path.name for path in converted.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "processor_config.json",
        "chat_template.jinja",
        "tokenizer.json",
    } <= names
    assert not [name for name in names if name.startswith(".") or name.endswith(".tmp")]
    assert "conversion.json" not in names
    assert [path.name for path in converted.parent.iterdir()] == [converted.name]
    index = json.loads((converted / "model.safetensors.index.json").read_text())
    found = read_headers(converted)
    assert index["weight_map"] == {name: stored.file.name for name, stored in found.items()}
    assert index["metadata"]["total_size"] == sum(stored.nbytes for stored in found.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype(original: Original, tmp_path: Path, dtype: str) -> None:
    checkpoints.convert(plan(original, dtype=dtype), tmp_path / "out", verify=True)
    kind = getattr(torch, dtype)
    assert {stored.dtype for stored in read_headers(tmp_path / "out").values()} == {kind}
    model, _ = checkpoints.load(str(tmp_path / "out"))
    assert model.dtype == kind
    newline = original.tensors["model.image_newline"].to(kind)
    assert torch.equal(model.model.image_newline, newline)


def test_the_stored_dtype_is_kept(tmp_path: Path) -> None:
    given = write_original(tmp_path, dtype=torch.bfloat16)
    assert plan(given).config.dtype == torch.bfloat16
    model, _ = checkpoints.load(str(given.folder))
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_conversion_goes_on(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fail_after(patch, 2, error)
        with pytest.raises((KeyboardInterrupt, ConfigError)) as caught:
            checkpoints.convert(plan(original), out, shard_bytes=SMALL)
    assert not out.exists()
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)
        assert "run the same command again" in str(caught.value)
    shards = sorted((tmp_path / ".out.converting").glob("model-*.safetensors"))
    times = [shard.stat().st_mtime_ns for shard in shards]
    assert len(shards) == 2
    # What the library writes beside its file stays there after kill -9.
    (tmp_path / ".out.converting" / ".tmpAbC").touch()
    assert checkpoints.convert(plan(original), out, shard_bytes=SMALL, verify=True) == 2
    assert [(out / shard.name).stat().st_mtime_ns for shard in shards] == times
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not list(out.glob(".tmp*"))
    assert {file.stat().st_mode & 0o777 for file in out.glob("model-*")} == {0o644}


def test_what_is_left_of_another_conversion_is_not_used(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fail_after(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            checkpoints.convert(plan(original, dtype="bfloat16"), out, shard_bytes=SMALL)
    assert checkpoints.convert(plan(original), out, shard_bytes=SMALL, verify=True) == 0


def test_a_hidden_folder_that_is_somebody_elses(original: Original, tmp_path: Path) -> None:
    (tmp_path / ".out.converting").mkdir()
    precious = tmp_path / ".out.converting" / "precious.txt"
    precious.touch()
    with pytest.raises(ConfigError, match="no conversion made"):
        checkpoints.convert(plan(original), tmp_path / "out")
    assert precious.exists()


def test_nothing_is_overwritten(original: Original, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        checkpoints.convert(plan(original), tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        checkpoints.convert(plan(original), tmp_path / "no" / "out")
    (tmp_path / "empty").mkdir()
    checkpoints.convert(plan(original), tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()


def test_too_little_disk(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    with pytest.raises(ConfigError, match=r"got 0\.1 GB of free disk"):
        checkpoints.convert(plan(original), tmp_path / "out")


def test_verifying_finds_one_flipped_bit(original: Original, tmp_path: Path) -> None:
    out = tmp_path / "out"
    conversion = plan(original)
    checkpoints.convert(conversion, out)
    tensors = load_file(out / "model.safetensors")
    tensors["model.image_newline"].view(torch.int32)[3] ^= 1
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(ConfigError, match=r"got model\.image_newline unlike model\.image_newline"):
        compare(conversion, out, lambda *args: None)
    del tensors["model.image_newline"]
    save_file(tensors, out / "model.safetensors")
    with pytest.raises(ConfigError, match=r"other tensors than expected.*image_newline"):
        compare(conversion, out, lambda *args: None)


def test_progress_counts_tensors(original: Original, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    conversion = plan(original)
    checkpoints.convert(
        conversion, tmp_path / "out", verify=True, progress=lambda *step: told.append(step)
    )
    total = len(conversion.tensors.moves)
    assert ("convert", total, total) in told
    assert told[-1] == ("verify", total, total)


def test_what_it_takes_to_run(original: Original) -> None:
    needs = plan(original).needs()
    # Two of keys and values, three layers, two heads of eight, four bytes; nine tokens per frame.
    assert (needs.tokens_per_frame, needs.cache_per_frame) == (9, 9 * 2 * 3 * 16 * 4)
    assert needs.weights == 4 * needs.parameters
