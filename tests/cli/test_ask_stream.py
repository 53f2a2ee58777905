"""``sttm ask --stream``: files, pipes and addresses, questions at chosen times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.video.live_sources import encoded, rtsp_server, tcp_server

from .conftest import Run
from .marks import needs_nano

Q = "Which digit appears?"


@needs_nano
def test_questions_at_chosen_times(run: Run, clip: Path, tmp_path: Path) -> None:
    saved = tmp_path / "seen.sttm"
    asked = ("--stream", "--at", "00:05", "--at", "2", "--save", saved)
    result = run("ask", clip, Q, "How many digits are there?", *asked, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["frames"], found["seconds"], found["tokens_in"]) == (8, 7.0, 8 * 64)
    assert [q["at"] for q in found["questions"]] == [2, 2, 5, 5]
    seen = [q["video_tokens"] for q in found["questions"]]
    assert 0 < seen[0] == seen[1] < seen[2] == seen[3] < found["tokens_out"] < found["tokens_in"]
    assert found["method"] == "sttm, thresholds 0.99/0.94"
    again = json.loads(run("ask", saved, Q, "--json").stdout)
    assert again["tokens_out"] == found["tokens_out"]


@needs_nano
def test_a_stream_in_the_end_answers_like_the_file(run: Run, clip: Path) -> None:
    way = ("--thresholds", "0.9/0.9", "--json")
    whole = json.loads(run("ask", clip, Q, *way).stdout)
    stream = json.loads(run("ask", clip, Q, "--stream", *way).stdout)
    assert stream["tokens_out"] == whole["tokens_out"]
    assert stream["questions"][0]["answer"] == whole["questions"][0]["answer"]
    shown = run("ask", clip, Q, "--stream", "--max-tokens", "400").stdout
    assert f"[00:07] {Q}" in shown
    assert "8 frames in 7.0 s" in shown
    assert "at most 400" in shown


@needs_nano
def test_a_source_that_stalls_is_noted_and_answered(run: Run) -> None:
    with tcp_server(encoded(16, size=128), stall=20) as address:
        result = run("ask", address, Q, "--stream", "--timeout", "0.5", "--at", "1", "--at", "900")
    assert result.exit_code == 0, result.stderr
    assert "stalled, no data for 0.5 s" in result.stderr
    assert "The answers are about the" in result.stderr
    assert [line[:7] for line in result.stdout.splitlines()[:2]] == ["[00:01]", "[00:03]"]


@needs_nano
def test_a_budget_is_a_cap(run: Run, clip: Path) -> None:
    way = ("--stream", "--window", "1", "--thresholds", "0.999/0.94", "--json")
    free = json.loads(run("ask", clip, Q, *way).stdout)
    found = json.loads(run("ask", clip, Q, *way, "--keep", "340").stdout)
    assert found["tokens_out"] <= 340 < free["tokens_out"]
    assert found == json.loads(run("ask", clip, Q, *way, "--max-tokens", "340").stdout) | {
        "questions": found["questions"]
    }


@needs_nano
def test_an_rtsp_server(run: Run) -> None:
    with rtsp_server() as (address, _):
        result = run("ask", f"{address}/short", Q, "--stream", "--at", "2", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["frames"], round(found["seconds"])) == (4, 3)
    assert [q["at"] for q in found["questions"]] == [2]


@needs_nano
def test_a_layer_that_holds_every_token_is_noted(run: Run, clip: Path) -> None:
    result = run("ask", clip, Q, "--stream", "--keep", "400", "--layer", "2")
    assert "the cap holds from layer 2 on" in " ".join(result.stderr.split())


@needs_nano
def test_standard_input() -> None:
    command = "import sys; from sttm.cli import main; sys.exit(main())"
    arguments = ["ask", "-", Q, "--stream", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        input=encoded(9, size=128),
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["video"] == "-"
    assert found["frames"] == 3
    assert found["questions"][0]["at"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stream", "--keep", "0.3"], "--keep: got 0.3 with --stream, expected a count"),
        (["--stream", "--keep", "400", "--max-tokens", "500"], "got --keep and --max-tokens"),
        (["--stream", "--keep", "300"], "max_tokens: got 300, expected at least 336"),
        (["--stream", "--full"], "got --full with --stream"),
        (["--stream", "--conversation"], "got --conversation with --stream"),
        (["--at", "00:10"], "got --at with no --stream"),
        (["--stream", "--at", "noon"], "--at: got 'noon', expected a time"),
        (["--stream", "--method", "random:keep=0.5"], "expected sttm.STTM with thresholds"),
        (["--stream", "--max-tokens", "0.5"], "max_tokens: got 0.5 for a stream"),
        (["--stream", "--timeout", "0"], "timeout: got 0"),
        (["--stream", "--fps", "0"], "fps=0"),
    ],
)
@needs_nano
def test_options_that_do_not_go_together(
    run: Run, clip: Path, options: list[str], message: str
) -> None:
    result = run("ask", clip, Q, *options)
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())


@needs_nano
def test_sources_that_are_none(run: Run, tmp_path: Path) -> None:
    missing = run("ask", tmp_path / "clip.mp4", Q, "--stream")
    assert missing.exit_code == 2
    assert "no such video file" in missing.stderr
    nobody = run("ask", "tcp://127.0.0.1:1", Q, "--stream")
    assert nobody.exit_code == 2
    assert "cannot be opened" in nobody.stderr
