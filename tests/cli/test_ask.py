import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sttm.nano.model import NANO_LAYER, weights_path

from .conftest import Run
from .marks import needs_nano

Q = "Which digit appears?"


@needs_nano
def test_two_questions_on_one_prefill(run: Run, clip: Path) -> None:
    result = run("ask", clip, Q, "How many digits are there?", "--keep", "0.3", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["frames"] == 8
    assert found["tokens_in"] == 8 * 64
    assert found["tokens_out"] == 153
    assert found["layer"] == NANO_LAYER
    assert [q["question"] for q in found["questions"]] == [Q, "How many digits are there?"]
    assert all(q["tokens"] < 40 and q["ttft_s"] > 0 for q in found["questions"])
    assert found["ttft_s"] > found["prefill_s"]
    assert "nano" in found["model"]
    assert "nano answers" in result.stderr


@needs_nano
def test_the_table_says_what_was_done(run: Run, clip: Path) -> None:
    shown = run("ask", clip, Q, "--full").stdout
    assert Q in shown
    assert "8 frames, 512 -> 512 tokens (100.0 %), all tokens, model nano" in shown
    assert "vision tower" in shown


@needs_nano
def test_a_saved_video_answers_alike(run: Run, clip: Path, tmp_path: Path) -> None:
    saved = tmp_path / "clip.sttm"
    first = json.loads(run("ask", clip, Q, "--keep", "200", "--save", saved, "--json").stdout)
    again = json.loads(run("ask", saved, Q, "--json").stdout)
    assert again["questions"][0]["answer"] == first["questions"][0]["answer"]
    assert again["tokens_out"] == first["tokens_out"]
    assert again["ttft_s"] is None
    assert "not paid again" in run("ask", saved, Q).stdout


@needs_nano
def test_a_conversation_remembers(run: Run, clip: Path) -> None:
    apart = json.loads(run("ask", clip, Q, Q, "--json").stdout)["questions"]
    joined = json.loads(run("ask", clip, Q, Q, "--conversation", "--json").stdout)["questions"]
    assert apart[1]["tokens"] == apart[0]["tokens"]
    assert joined[1]["tokens"] != apart[1]["tokens"]


@needs_nano
def test_subtitles_are_put_into_the_prompt(run: Run, clip: Path, tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(clip.read_bytes())
    cue = "1\n00:00:00,000 --> 00:00:03,000\nA digit is coming\n"
    (tmp_path / "clip.srt").write_text(cue, encoding="utf-8")
    without = json.loads(run("ask", video, Q, "--json").stdout)
    for value in ("auto", tmp_path / "clip.srt"):
        found = json.loads(run("ask", video, Q, "--subtitles", value, "--json").stdout)
        assert found["questions"][0]["tokens"] != without["questions"][0]["tokens"]


@needs_nano
def test_a_folder_is_a_model(run: Run, clip: Path) -> None:
    given = ("--model", weights_path(), "--layer", NANO_LAYER, "--json")
    found = json.loads(run("ask", clip, Q, *given).stdout)
    assert found["model"] == str(weights_path())
    assert found["tokens_in"] == 8 * 64


@needs_nano
def test_another_method(run: Run, clip: Path) -> None:
    given = ("--method", "random", "--keep", "64", "--json")
    found = json.loads(run("ask", clip, Q, *given).stdout)
    assert (found["method"], found["tokens_out"]) == ("random, keep 64", 64)


@needs_nano
def test_a_query_aware_method_cannot_share_a_prefill(run: Run, clip: Path) -> None:
    result = run("ask", clip, Q, "--method", "fastv", "--keep", "64")
    assert result.exit_code == 2
    assert "drops tokens by the question" in result.stderr


@needs_nano
def test_json_is_alone_on_stdout(clip: Path) -> None:
    code = "from sttm.cli import main; main()"
    command = [
        sys.executable,
        "-W",
        "error::SyntaxWarning",
        "-c",
        code,
        "ask",
        str(clip),
        Q,
        "--json",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert json.loads(done.stdout)["questions"][0]["question"] == Q


def test_an_empty_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    result = run("ask", tmp_path / "empty.mp4", Q)
    assert result.exit_code == 2
    assert "empty.mp4" in result.stderr


def test_no_question(run: Run, clip: Path) -> None:
    assert run("ask", clip).exit_code == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--thresholds", "0.8"), "two cosines"),
        (("--keep", "lots"), "a share such as 0.3"),
        (("--keep", "0.3", "--full"), "--full and --keep"),
        (("--fps", "0"), "fps"),
        (("--max-frames", "0"), "max_frames"),
        (("--subtitles", "auto"), "no .srt or .vtt file"),
        (("--save", "clip.bin"), "ends in .sttm"),
        (("--save", "nowhere/clip.sttm"), "does not exist"),
    ],
)
def test_bad_options(run: Run, clip: Path, options: tuple[str, ...], told: str) -> None:
    result = run("ask", clip, Q, *options)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stdout == ""


def test_a_saved_video_keeps_its_reduction(run: Run) -> None:
    result = run("ask", "clip.sttm", Q, "--keep", "0.5")
    assert result.exit_code == 2
    assert "stays as it was made" in result.stderr


def test_an_unknown_model(run: Run, clip: Path, tmp_path: Path) -> None:
    result = run("ask", clip, Q, "--model", tmp_path / "none")
    assert result.exit_code == 2
    assert "expected the id of a model on the Hugging Face hub, or a folder" in result.stderr


@pytest.mark.parametrize("kind", ["bert", "no_such_type"])
def test_a_model_of_another_kind(run: Run, clip: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    result = run("ask", clip, Q, "--model", tmp_path)
    assert result.exit_code == 2
    assert kind in result.stderr
    assert "sttm models" in result.stderr


def test_a_folder_without_weights(run: Run, clip: Path, tmp_path: Path) -> None:
    config = json.dumps({"model_type": "llava_onevision"})
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    result = run("ask", clip, Q, "--model", tmp_path)
    assert result.exit_code == 2
    assert "cannot be loaded" in result.stderr


def test_nano_that_was_not_installed(
    run: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sttm.nano.model.weights_path", lambda: tmp_path)
    result = run("ask", clip, Q)
    assert result.exit_code == 2
    assert "reinstall sttm" in result.stderr


@needs_nano
def test_still_patches_and_near_frames(run: Run, clip: Path) -> None:
    plain = json.loads(run("ask", clip, Q, "--keep", "0.3", "--json").stdout)
    near = run("ask", clip, Q, "--keep", "0.3", "--reuse", 8, "--dedupe", 1, "--json")
    assert near.exit_code == 0, near.stderr
    assert json.loads(near.stdout)["tokens_out"] == plain["tokens_out"]
    assert run("ask", clip, Q, "--reuse", 300).exit_code == 2


@needs_nano
@pytest.mark.parametrize(("how", "kept"), [(("--keep", "200"), 200), (("-t", "0.99/0.94"), None)])
def test_piecewise(run: Run, clip: Path, how: tuple[str, ...], kept: int | None) -> None:
    whole = json.loads(run("ask", clip, Q, *how, "--json").stdout)
    result = run("ask", clip, Q, *how, "--piecewise", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["tokens_in"] == whole["tokens_in"]
    assert found["tokens_out"] == (kept or whole["tokens_out"])
    assert ("in pieces of 16" in found["method"]) == (kept is not None)
    assert found["decode_s"] > 0


def test_piecewise_is_not_stored(run: Run, clip: Path, tmp_path: Path) -> None:
    result = run("ask", clip, Q, "--piecewise", "--store", tmp_path / "kept")
    assert result.exit_code == 2
    assert "got --store with --piecewise" in result.stderr
