import json
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sttm.errors import ConfigError, WriteError
from sttm.evaluation.record import AnswerRecord
from sttm.evaluation.result_log import ResultLog, read_log

RECORD = AnswerRecord("a-0", "a", "Which?", (), "7", text="7", parsed="7", right=True)
MANY = [replace(RECORD, question_id=f"a-{i}") for i in range(4)]
SETTINGS: dict[str, Any] = {"model": "nano", "layer": 0}


def write(path: Path, answers: list[AnswerRecord]) -> None:
    with ResultLog(path, SETTINGS, {"commit": "abc"}, AnswerRecord) as log:
        log.add(answers)


def known(path: Path) -> list[AnswerRecord]:
    with ResultLog(path, SETTINGS, {}, AnswerRecord) as log:
        return list(log.known.values())


def test_answers_come_back(tmp_path: Path) -> None:
    write(tmp_path / "answers.jsonl", MANY)
    assert known(tmp_path / "answers.jsonl") == MANY


def test_no_answer_is_kept_twice(tmp_path: Path) -> None:
    write(tmp_path / "answers.jsonl", MANY[:2])
    write(tmp_path / "answers.jsonl", MANY)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 1 + len(MANY)


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_last_line_that_was_cut_off_is_asked_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, MANY)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert known(path) == MANY[:3]
    write(path, MANY)
    assert path.read_bytes() == whole


def test_a_header_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"format": 1, "sett')
    write(path, MANY)
    assert known(path) == MANY


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, MANY)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"layer 0 \(now 2\).*cannot be mixed"):
        ResultLog(path, {"model": "nano", "layer": 2}, {}, AnswerRecord)
    assert path.read_bytes() == before
    assert known(path) == MANY  # a refused file is not held


def test_a_file_without_answers_takes_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    refused = {**SETTINGS, "positions": "bogus"}
    # While it is held, nobody else may begin it anew.
    with (
        ResultLog(path, refused, {"commit": "abc"}, AnswerRecord),
        pytest.raises(ConfigError, match="another run"),
    ):
        ResultLog(path, SETTINGS, {}, AnswerRecord)
    with ResultLog(path, SETTINGS, {"commit": "def"}, AnswerRecord) as log:
        assert log.info == {"commit": "def"}
        log.add(MANY)
    stored = read_log(path, AnswerRecord)
    assert (stored.settings, stored.info) == (SETTINGS, {"commit": "def"})
    assert list(stored.answers.values()) == MANY


def test_what_is_noted_may_differ(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write(path, MANY)
    with ResultLog(path, SETTINGS, {"commit": "def"}, AnswerRecord) as log:
        assert log.info == {"commit": "abc"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hello\n", "expected a JSON object"),
        ("[1]\n", "expected a JSON object"),
        ('{"format": 99, "settings": {}}\n', "format 99"),
        (json.dumps({"format": 1, "settings": SETTINGS}) + '\n{"a": 1}\n', "line 2"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        ResultLog(path, SETTINGS, {}, AnswerRecord)
    assert path.read_text() == text


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with (
        ResultLog(path, SETTINGS, {}, AnswerRecord),
        pytest.raises(ConfigError, match="another run"),
    ):
        ResultLog(path, SETTINGS, {}, AnswerRecord)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="Choose another place"):
        ResultLog(tmp_path / "none" / "answers.jsonl", SETTINGS, {}, AnswerRecord)


def test_a_full_disk_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with ResultLog(path, SETTINGS, {}, AnswerRecord) as log:
        log.add(MANY[:2])
        before = path.read_bytes()
        held = os.dup(log._file.fileno())
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), log._file.fileno())
        with pytest.raises(WriteError, match=r"No space left.*2 answers are there and kept"):
            log.add(MANY[2:])
        assert len(log.known) == 2
        os.dup2(held, log._file.fileno())
        os.close(held)
        assert path.read_bytes() == before
        log.add(MANY)
    assert known(path) == MANY


def test_a_line_that_was_written_in_part_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with ResultLog(path, SETTINGS, {}, AnswerRecord) as log:
        log.add(MANY[:1])
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        try:
            with pytest.raises(WriteError, match="Make room, then run the same command"):
                log.add(MANY[1:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert known(path) == MANY[:1]


def test_a_log_can_be_read_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with ResultLog(path, SETTINGS, {"commit": "abc"}, AnswerRecord) as log:
        log.add(MANY[:2])
        stored = read_log(path, AnswerRecord)
        assert (stored.settings, stored.info) == (SETTINGS, {"commit": "abc"})
        assert list(stored.answers.values()) == MANY[:2]
    path.write_bytes(path.read_bytes()[:-5])
    assert list(read_log(path, AnswerRecord).answers.values()) == MANY[:1]
    for text in ("", "hello\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="expected a JSON object"):
            read_log(path, AnswerRecord)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_log(tmp_path / "none", AnswerRecord)
