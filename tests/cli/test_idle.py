"""Options that would do nothing, or come twice, are refused before any work."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .marks import needs_nano
from .test_app import ALL, COMMANDS, Words

Q = "Which digit appears?"
OF_WATCHING = [
    *(("--keep", ".3"), ("--thresholds", ".8/.6"), ("--max-tokens", "9"), ("--method", "random")),
    *(("--full",), ("--layer", "1"), ("--fps", "1"), ("--max-frames", "128")),
    *(("--subtitles", "auto"), ("--store", "s"), ("--store-dtype", "float8")),
]


def value_of(option: Any) -> list[str]:
    return [] if getattr(option, "is_flag", False) else ["1"]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_comes_once_unless_it_takes_many(run: Run, path: Words) -> None:
    for option in ALL[path].params:
        if option.param_type_name != "option" or option.multiple:
            continue
        twice = [
            part for name in (option.opts[0], option.opts[-1]) for part in (name, *value_of(option))
        ]
        result = run(*path, *twice)
        assert result.exit_code == 2, (path, twice)
        assert "got it 2 times, expected it once at most" in result.stderr, (path, twice)
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_switch_and_its_opposite(run: Run) -> None:
    assert (
        "--videos: got it 2" in run("eval", "validate", "needle", "--videos", "--no-videos").stderr
    )


def test_options_before_the_command(run: Run) -> None:
    result = run("--debug", "--debug", "methods")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --debug: got it 2 times")


def test_many_values_may_be_named_again(run: Run) -> None:
    result = run("bench", "needle", "--methods", "no", "--methods", "such", "--keep", ".3", ".2")
    assert "got it" not in result.stderr
    assert "unknown method" in result.stderr


@pytest.mark.parametrize("options", OF_WATCHING, ids=" ".join)
def test_a_saved_video_takes_no_option_of_watching(run: Run, options: tuple[str, ...]) -> None:
    result = run("ask", "clip.sttm", Q, *options)
    assert result.exit_code == 2
    assert f"got {options[0]} with clip.sttm, which is saved" in result.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("ask c.mp4 q --device-map cpu", "got --device-map with nano"),
        ("ask c.mp4 q --full --layer 1", "got --layer with --full"),
        ("ask c.mp4 q --thresholds none --max-tokens 5", "got --max-tokens with --thresholds none"),
        ("extract c.mp4 --out o --device-map cpu", "got --device-map with nano"),
        ("extract c.mp4 --out o --newline frame", "got --newline with nano"),
        ("extract c.mp4 --out o --rule uniform --fps 2", "got --fps with --rule uniform"),
        ("extract c.mp4 --out o --ray-workers 2", "got --ray-workers without --ray"),
        ("extract c.mp4 --out o --ray-gpus 1", "got --ray-gpus without --ray"),
        ("extract c.mp4 --out o --verify", "got [VIDEO...] with --verify"),
        ("extract --out o --verify --fps 1 --processes 1", "got --fps, --processes with --verify"),
        ("extract --out o --task needle --fps 1", "got --fps with the task needle"),
        ("extract --out o --task needle --data-root d", "got --data-root with the task needle"),
        ("eval validate needle --data-root d", "got --data-root with the task needle"),
        ("eval run --task needle --data-root d", "got --data-root with the task needle"),
        ("eval run --task needle --max-frames 8", "got --max-frames with the task needle"),
        ("eval run --task needle --full --layer 0", "got --layer with --full"),
        ("eval run --task needle --full --positions merged", "got --positions with --full"),
        ("eval run --task needle --newline frame", "got --newline with nano"),
        ("eval run --task needle --device-map cpu", "got --device-map with nano"),
        ("eval run --task needle --ray-workers 1", "got --ray-workers without --ray"),
        ("eval run --task videomme --rule uniform --fps 2", "got --fps with --rule uniform"),
        (
            "eval run --task needle --method tome random --keep 1",
            "got --method with no other budget",
        ),
        ("eval run --task needle --method tome:keep=.3 --keep 1 .5", "got --keep 0.5, at which no"),
        ("bench speed --methods sttm:keep=.3 --keep .5", "got --keep 0.5, at which no method"),
    ],
)
def test_options_that_do_nothing(run: Run, tmp_path: Path, command: str, told: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


SECRET = "hunter2:x:0:0"


@pytest.mark.parametrize(
    "content",
    [
        SECRET,
        json.dumps({"format": SECRET}),
        json.dumps({SECRET: SECRET}),
        json.dumps([SECRET]),
        json.dumps({"format": 1, "model": [SECRET], "layer": SECRET}),
        json.dumps({"format": 1, "model": "m", "layer": 0, "videos": [{SECRET: SECRET}]}),
        json.dumps(SECRET),
    ],
)
@pytest.mark.parametrize("name", ["passwd", "t.json"])
def test_a_file_of_thresholds_is_never_quoted(
    run: Run, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    result = run("ask", "c.mp4", Q, "--thresholds", tmp_path / name)
    assert result.exit_code == 2
    assert "got something else as " in result.stderr
    assert "hunter2" not in result.stderr
    debugged = run("--debug", "ask", "c.mp4", Q, "--thresholds", tmp_path / name).exception
    assert debugged is not None
    assert debugged.__cause__ is None
    assert debugged.__suppress_context__


def test_a_pipe_of_thresholds_is_not_waited_for(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.json")
    result = run("ask", "c.mp4", Q, "--thresholds", tmp_path / "t.json")
    assert "cannot be read (no regular file)" in result.stderr


@needs_nano
def test_one_run_has_nothing_to_compare_with(run: Run, tmp_path: Path) -> None:
    few = ("--task", "needle", "--limit", 1, "--no-warm-up", "--out", tmp_path / "run")
    assert run("eval", "run", *few).exit_code == 0
    result = run("eval", "report", tmp_path / "run", "--compare", "--out", tmp_path)
    assert result.exit_code == 2
    assert "got --compare with one run" in result.stderr
