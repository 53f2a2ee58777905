import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sttm.evaluation.tasks.task import FOLDER

from .conftest import Run
from .marks import needs_nano

SMALL = ("--max-new-tokens", 4)
MAIN = [sys.executable, "-c", "from sttm.cli import main; main()"]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """The needle task with three short scenes."""
    content = yaml.safe_load((FOLDER / "needle.yaml").read_text())
    content["scenes"] = {"frames": 4, "count": 3}
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump({"name": "short", **content}))
    return path


@pytest.fixture
def own(tmp_path: Path, clip: Path) -> Path:
    """A user's own questions: about a missing video, a good one, and a damaged one."""
    (tmp_path / "damaged.mp4").write_bytes(b"no video" * 99)
    lines = [
        {"video": video, "question": "Which?", "options": ["one", "two"], "answer": "A"}
        for video in ("missing.mp4", str(clip), str(clip), "damaged.mp4")
    ]
    path = tmp_path / "own.jsonl"
    path.write_text(
        "".join(json.dumps({**line, "id": str(i)}) + "\n" for i, line in enumerate(lines))
    )
    return path


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()[1:]]


def ask(run: Run, task: Path, out: Path, *more: object) -> dict[str, Any]:
    result = run("eval", "run", "--task", task, *SMALL, *more, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@needs_nano
def test_run_and_report(run: Run, task: Path, tmp_path: Path) -> None:
    full, merged, random = (tmp_path / name for name in ("full", "merged", "random"))
    found = ask(run, task, full, "--full")
    assert found["answered"] == found["questions"] == len(lines(full))
    assert found["retention"] == 1
    assert ask(run, task, merged, "--keep", "0.3")["retention"] == pytest.approx(76 / 256)
    ask(run, task, random, "--method", "random", "--keep", "0.1", "--limit", 5)
    assert len(lines(random)) == 5

    given = ("eval", "report", full, merged, random, "--compare", "--out", tmp_path / "report")
    result = run(*given, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [row["full"] for row in report["runs"]] == ["full"] * 3
    assert [row["common"] for row in report["runs"]] == [len(lines(full))] * 2 + [5]
    assert len(report["comparisons"]) == 3
    assert (tmp_path / "report" / "accuracy.png").is_file()
    shown = run(*given)
    assert "paired comparisons" in shown.stdout

    # The first questions are kept when more are asked.
    before = lines(random)
    ask(run, task, random, "--method", "random", "--keep", "0.1", "--limit", 8)
    assert lines(random)[:5] == before
    assert len(lines(random)) == 8


@needs_nano
def test_a_changed_setting_is_refused(run: Run, task: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ask(run, task, out, "--keep", "0.3", "--limit", 1)
    before = (out / "answers.jsonl").read_bytes()
    changes = (("--keep", "0.2"), ("--keep", "0.3", "--layer", 1), ("--keep", "0.3", "--seed", 1))
    for change in changes:
        result = run("eval", "run", "--task", task, *SMALL, *change, "--limit", 1, "--out", out)
        assert result.exit_code == 2
        assert "cannot be mixed" in result.stderr
    assert (out / "answers.jsonl").read_bytes() == before


MANY = ("--method", "sttm", "random", "--keep", "1", "0.3")


@needs_nano
def test_many_settings_and_one_report(run: Run, task: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "many", tmp_path / "report"
    given = ("eval", "run", "--task", task, *SMALL, *MANY, "--out", out)
    shown = run(*given)
    assert shown.exit_code == 0, shown.stderr
    assert "random 0.3" in shown.stdout
    names = ["all", "random-0.3", "sttm-0.3"]
    assert sorted(path.name for path in out.iterdir()) == names
    before = {name: (out / name / "answers.jsonl").read_text() for name in names}
    for name, setting in zip(names, ("all", "random 0.3", "sttm 0.3")):
        assert {line["setting"] for line in lines(out / name)} == {setting}
    # The answers are those of a run of its own.
    ask(run, task, tmp_path / "one", "--keep", "0.3")
    alone, merged = lines(tmp_path / "one"), lines(out / "sttm-0.3")
    assert [line["text"] for line in alone] == [line["text"] for line in merged]

    # A budget more asks nothing again, and one that was cut off goes on.
    path = out / "all" / "answers.jsonl"
    path.write_text(before["all"][: len(before["all"]) * 2 // 3])
    more = run("eval", "run", "--task", task, *SMALL, *MANY, "0.1", "--out", out, "--json")
    assert more.exit_code == 0, more.stderr
    settings = json.loads(more.stdout)["settings"]
    assert [each["method"] for each in settings][:2] == ["all", "sttm 0.3"]
    for name in names[1:]:
        assert (out / name / "answers.jsonl").read_text() == before[name]
    texts = [json.loads(line)["text"] for line in before["all"].splitlines()[1:]]
    assert [line["text"] for line in lines(out / "all")] == texts

    sums = ("eval", "report", out)
    asked = ("--against", "sttm", "--by", "kind", "--out", report)
    found = json.loads(run(*sums, *asked, "--json").stdout)
    rows = {row["run"]: row for row in found["runs"]}
    assert (rows["random-0.1"]["full"], rows["all"]["less_full"]) == ("all", 0.0)
    assert rows["sttm-0.3"]["metric"] == "macro"
    pairs = {(one["first"], one["second"]) for one in found["comparisons"]}
    assert pairs == {("random-0.3", "sttm-0.3"), ("random-0.1", "sttm-0.1")}
    assert {row["part"] for row in found["parts"]} == {"static", "pan", "texture"}
    assert "## short, nano (bundled), texture" in (report / "report.md").read_text()
    assert run(*sums, "--by", "knd", "--out", report).exit_code == 2
    assert "Did you mean 'sttm'" in run(*sums, "--against", "stm", "--out", report).stderr

    refused = run("eval", "run", "--task", task, *SMALL, *MANY, "--out", out / "all")
    assert "got the answers of one setting in it" in refused.stderr


@needs_nano
def test_several_lengths(run: Run, own: Path, clip: Path, tmp_path: Path) -> None:
    own.write_text(own.read_text().splitlines(keepends=True)[1])  # the one about a good video
    lengths = ("--max-frames", 2, 3, "--no-warm-up")
    out, report = tmp_path / "out", tmp_path / "report"
    given = ("eval", "run", "--task", "custom", "--data-root", own, *SMALL, *MANY, *lengths)
    shown = run(*given, "--out", out)
    assert shown.exit_code == 0, shown.stderr
    assert "custom, nano (bundled), 3 frames" in shown.stdout
    names = [f"{n}-frames/{name}" for n in (2, 3) for name in ("all", "random-0.3", "sttm-0.3")]
    found = {str(path.parent.relative_to(out)): path for path in out.rglob("answers.jsonl")}
    assert sorted(found) == names
    for name, path in found.items():
        tokens = {line["tokens_in"] for line in lines(path.parent)}
        assert tokens == {64 * int(name[0])}
    # The answers are those of a run of its own.
    one = ("--keep", "0.3", "--max-frames", 3, "--no-warm-up", "--data-root", own)
    ask(run, Path("custom"), tmp_path / "one", *one)
    texts = [line["text"] for line in lines(tmp_path / "one")]
    assert texts == [line["text"] for line in lines(out / "3-frames" / "sttm-0.3")]

    result = run("eval", "report", out, "--against", "sttm", "--out", report, "--json")
    summed = json.loads(result.stdout)
    assert {row["run"]: row["full"] for row in summed["runs"]} == {
        name: f"{name[0]}-frames/all" for name in names
    }
    pairs = {(pair["first"], pair["second"]) for pair in summed["comparisons"]}
    assert pairs == {(f"{n}-frames/random-0.3", f"{n}-frames/sttm-0.3") for n in (2, 3)}
    text = (report / "report.md").read_text()
    assert "## custom, nano (bundled), 2 frames" in text
    assert "## custom, nano (bundled), 3 frames" in text


@needs_nano
def test_a_budget_out_of_reach(run: Run, task: Path, tmp_path: Path) -> None:
    out = tmp_path / "many"
    methods = ("--method", "flat=sttm:spatial_threshold=none", "random", "--keep", "1", "5")
    result = run("eval", "run", "--task", task, *SMALL, *methods, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "flat 5: " in result.stderr
    again = run("eval", "run", "--task", task, *SMALL, *methods, "--out", out)
    assert "are tried again" not in again.stderr
    shown = run("eval", "report", out, "--out", tmp_path / "report")
    assert "no accuracy: the budget is out of the method's reach" in shown.stderr
    assert "out of reach" in (tmp_path / "report" / "report.md").read_text()


def test_answers_of_the_former_needle_benchmark_are_refused(run: Run, tmp_path: Path) -> None:
    header = {"format": 1, "settings": {"benchmark": "needle"}, "info": {}}
    (tmp_path / "answers.jsonl").write_text(json.dumps(header) + "\n")
    for given in (("eval", "report"), ("eval", "run", "--task", "needle", "--out")):
        result = run(*given, tmp_path)
        assert result.exit_code == 2
        assert "got answers of `sttm bench needle` of sttm 0.1" in result.stderr


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.002)


@needs_nano
def test_kill_and_resume(run: Run, task: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ask(run, task, whole, "--keep", "0.3")
    given = ["eval", "run", "--task", str(task), *map(str, SMALL), "--keep", "0.3"]
    path = cut / "answers.jsonl"

    def some() -> bool:
        return path.is_file() and path.read_bytes().count(b"\n") >= 4

    with subprocess.Popen(
        [*MAIN, *given, "--out", str(cut)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_for(some, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    left = path.read_text().splitlines()
    assert 4 <= len(left) < 1 + len(lines(whole))
    # As if it had been killed in the middle of a line, too.
    with path.open("a") as file:
        file.write('{"question_id": "cut-4-')

    result = run(*given, "--out", cut)
    assert f"has {len(left) - 1} answers already" in result.stderr
    assert path.read_text().splitlines()[: len(left)] == left
    key = "question_id"
    assert [line[key] for line in lines(cut)] == [line[key] for line in lines(whole)]
    assert [line["text"] for line in lines(cut)] == [line["text"] for line in lines(whole)]


@needs_nano
def test_a_full_disk_stops_the_run_and_loses_nothing(run: Run, task: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = ["eval", "run", "--task", str(task), *map(str, SMALL), "--keep", "0.3"]
    ask(run, task, out, "--keep", "0.3", "--limit", 2)
    before = (out / "answers.jsonl").read_bytes()
    room = len(before) + 1000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        result = run(*given, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 2
    assert "run the same command again" in result.stderr
    after = (out / "answers.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.endswith(b"}\n")
    assert len(after) <= room
    ask(run, task, out, "--keep", "0.3")
    ids = [line["question_id"] for line in lines(out)]
    assert len(set(ids)) == len(ids) > 3


@needs_nano
def test_on_error_stop(run: Run, own: Path, tmp_path: Path) -> None:
    given = ("eval", "run", "--task", "custom", "--data-root", own, *SMALL, "--keep", "0.3")
    result = run(*given, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "videos of custom are missing: 1 (missing)" in result.stderr
    assert "--on-error skip goes on" in result.stderr
    assert not (tmp_path / "run").exists()

    text = own.read_text().splitlines(keepends=True)
    own.write_text("".join(text[1:]))
    result = run(*given, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "unreadable video" in result.stderr
    assert [line["error"] for line in lines(tmp_path / "run")] == [None, None, "unreadable video"]


@needs_nano
def test_on_error_skip(run: Run, own: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with own.open("a") as file:
        file.write(json.dumps({"id": "1", "video": str(clip), "question": "?", "answer": "x"}))
        file.write('\n{"id": "9", "video": "no"\n')
    given = ("eval", "run", "--task", "custom", "--data-root", own, *SMALL, "--keep", "0.3")
    assert run(*given, "--out", out).exit_code == 2
    result = run(*given, "--on-error", "skip", "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["errors"] == {"missing video": 1, "unreadable video": 1}
    assert (found["answered"], found["metrics"]["micro"]["n"]) == (2, 2)
    assert found["metrics"]["micro"]["missing"] == 2
    assert sum(found["left_out"].values()) == 2
    assert {line["right"] for line in lines(out) if line["error"]} == {None}

    shown = run(*given, "--on-error", "skip", "--out", out)
    assert "2 with errors are tried again" in shown.stderr
    assert "1 not scored: missing video" in shown.stderr

    # The video is there now: its question is asked, and nothing else.
    (tmp_path / "missing.mp4").write_bytes(clip.read_bytes())
    assert run(*given, "--on-error", "skip", "--out", out, "--json").exit_code == 0
    answered = [line["question_id"] for line in lines(out) if line["error"] is None]
    assert sorted(answered) == ["0", "1", "2"]
    report = run("eval", "report", out, "--out", tmp_path / "report")
    assert "2 malformed rows of the data set left out" in report.stderr


@needs_nano
def test_features_give_the_answers_of_videos(run: Run, own: Path, tmp_path: Path) -> None:
    text = own.read_text().splitlines(keepends=True)
    own.write_text("".join(text[1:3]))
    features = tmp_path / "features"
    data = ("--task", "custom", "--data-root", own)
    result = run("extract", *data, "--out", features)
    assert result.exit_code == 0, result.stderr
    found = []
    for name, more in (("videos", ()), ("features", ("--features", features))):
        given = ("eval", "run", *data, *SMALL, "--keep", "0.3", *more, "--out", tmp_path / name)
        assert run(*given).exit_code == 0
        found.append([(line["text"], line["tokens_out"]) for line in lines(tmp_path / name)])
    assert found[0] == found[1]


@needs_nano
@pytest.mark.slow
def test_two_processes_give_the_same(run: Run, task: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        ask(run, task, out, "--keep", "0.3", "--processes", processes)
        found.append({line["question_id"]: line["text"] for line in lines(out)})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "got no --task"),
        (("--task", "neddle"), "Did you mean 'needle'"),
        (("--task", "needle", "--method", "stmt"), "Did you mean 'sttm'"),
        (("--task", "needle", "--keep", "0.3", "--full"), "expected one of them"),
        (("--task", "needle", "--keep", "0.3", "0.3"), "twice"),
        (("--task", "needle", "--keep", "0"), "keep"),
        (("--task", "needle", "--keep", "lots", "1"), "a share such as 0.3"),
        (("--task", "needle", "--method", "sttm", "tome"), "expected budgets"),
        (("--task", "needle", "--keep", ".5", ".3", "-t", "1/1"), "options of a method"),
        (("--task", "needle", "--scenes", "kinds=cut,moving"), "expected different ones of"),
        (("--task", "needle", "--scenes", "task_types=pan,zoom"), "task_types: got pan, zoom"),
        (("--task", "needle", "--scenes", "frames=0"), "frames: "),
        (("--task", "needle", "--scenes", "length=4"), "length: "),
        (("--task", "needle", "--scenes", "frames=4,4"), "expected different numbers"),
        (("--task", "needle", "--scenes", "count=4", "count=5"), "expected every key once"),
        (("--task", "custom", "--scenes", "frames=4"), "which has videos"),
        (("--task", "needle", "--threads", "1", "--processes", "2"), "got --threads 1"),
        (("--task", "needle", "--prompt", "offical"), "prompt style"),
        (("--task", "needle", "--parser", "x"), "parser"),
        (("--task", "needle", "--on-error", "ignore"), "is not one of"),
        (("--task", "needle", "--fps", "2"), "frame by frame"),
        (("--task", "needle", "--ray", "--processes", "2"), "expected one of them"),
        (("--task", "vnbench"), "data root"),
        (("--preset", "sttm-paper/llava-video-7b/vnbench/31"), "Did you mean"),
        (("--preset", "sttm-paper/llava-video-7b/vnbench/30", "--keep", "0.3"), "it alone"),
        (("--preset", "sttm-paper/llava-video-7b/vnbench/30"), "data root"),
    ],
)
def test_bad_options(run: Run, tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    result = run("eval", "run", *options, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_bad_reports(run: Run, tmp_path: Path) -> None:
    result = run("eval", "report", tmp_path)
    assert result.exit_code == 2
    assert "expected the folder of an `sttm eval run`" in result.stderr


def test_presets(run: Run) -> None:
    found = json.loads(run("eval", "presets", "--json").stdout)
    row = next(p for p in found if p["name"] == "sttm-paper/llava-onevision-7b/nextqa/50")
    assert (row["thresholds"], row["layer"]) == (".95/.65", 2)
    assert "sttm-paper/llava-video-72b/videomme/30" in run("eval", "presets").stdout
