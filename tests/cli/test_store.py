"""``sttm store``, and ``sttm ask --store`` in front of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sttm.cli.store import in_words, read_size

from .conftest import Run
from .marks import needs_nano

Q = "Which digit appears?"


def ask(run: Run, clip: Path, folder: Path, *options: object) -> dict[str, Any]:
    result = run("ask", clip, Q, "--store", folder, "--json", *options)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@needs_nano
def test_a_video_is_watched_once(run: Run, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    first, again = ask(run, clip, folder), ask(run, clip, folder)
    assert (first["loaded"], again["loaded"]) == (False, True)
    assert again["questions"][0]["answer"] == first["questions"][0]["answer"]
    assert (again["tokens_out"], again["decode_s"]) == (first["tokens_out"], None)
    assert first["decode_s"] > 0
    other = ask(run, clip, folder, "--keep", "0.1")
    assert (other["loaded"], other["tokens_out"]) == (False, 51)
    entries = json.loads(run("store", "ls", folder, "--json").stdout)
    assert [entry["tokens_out"] for entry in entries] == [51, 153]
    assert all(entry["name"] == str(clip) for entry in entries)
    shown = run("store", "ls", folder).stdout
    assert entries[0]["key"][:8] in shown
    assert "2 videos" in shown
    assert "max_tokens" not in shown  # of a method what tells it from others, not every option


@needs_nano
def test_subtitles_and_dtypes_are_apart(run: Run, clip: Path, tmp_path: Path) -> None:
    cue = "1\n00:00:00,000 --> 00:00:03,000\nA digit is coming\n"
    spoken = tmp_path / "a.srt"
    spoken.write_text(cue, encoding="utf-8")
    for options in ((), ("--subtitles", spoken), ("--store-dtype", "float8")):
        assert not ask(run, clip, tmp_path / "videos", *options)["loaded"]
        assert ask(run, clip, tmp_path / "videos", *options)["loaded"]


@needs_nano
def test_rm_gc_and_verify(run: Run, clip: Path, tmp_path: Path) -> None:
    for keep in (0.1, 0.2, 0.3):
        ask(run, clip, tmp_path, "--keep", keep)
    newest, middle, oldest = json.loads(run("store", "ls", tmp_path, "--json").stdout)
    done = json.loads(run("store", "rm", tmp_path, middle["key"][:20], "--json").stdout)
    assert done["deleted"] == [middle["key"]]
    assert done["freed_bytes"] == middle["bytes"]
    assert done["videos"] == 2
    assert run("store", "verify", tmp_path).exit_code == 0
    file = tmp_path / f"{oldest['key']}.sttm"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    damaged = run("store", "verify", tmp_path, "--json")
    assert damaged.exit_code == 1
    assert [file.name in problem for problem in json.loads(damaged.stdout)["problems"]] == [True]
    assert json.loads(run("store", "gc", tmp_path, "--json").stdout)["videos"] == 2
    size = newest["bytes"]
    done = json.loads(run("store", "gc", tmp_path, "--max-size", size, "--json").stdout)
    assert done["videos"] == 1
    assert done["bytes"] <= size


@needs_nano
def test_what_is_wrong_is_a_note(run: Run, clip: Path, tmp_path: Path) -> None:
    ask(run, clip, tmp_path)
    (file,) = tmp_path.glob("*.sttm")
    file.write_bytes(file.read_bytes()[:-9])
    result = run("ask", clip, Q, "--store", tmp_path, "--json")
    assert not json.loads(result.stdout)["loaded"]
    assert "note: " in result.stderr
    assert "half-written or damaged" in result.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ls", "nowhere"), "expected the folder of a store"),
        (("rm", ".", "abc"), "which none of the 0 videos begin with"),
        (("gc", ".", "--max-size", "much"), "expected e.g. 500MB"),
    ],
)
def test_bad_options(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("store", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert told in result.stderr


def test_a_dtype_without_a_store_is_refused(run: Run, clip: Path) -> None:
    result = run("ask", clip, Q, "--store-dtype", "float8")
    assert result.exit_code == 2
    assert "with no --store" in result.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("500MB", 500 * 10**6), ("1.5 GiB", 3 * 2**29), ("2k", 2000), ("7B", 7)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert read_size(text) == size


def test_sizes_are_written() -> None:
    assert [in_words(n) for n in (12, 34_500, 2 * 10**9)] == ["12 bytes", "34.5 kB", "2.0 GB"]
