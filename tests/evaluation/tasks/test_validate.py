"""What is wrong with files, and how to get them."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sttm.errors import ConfigError
from sttm.evaluation.tasks import Task, get_task
from sttm.evaluation.tasks.task import Expected
from sttm.evaluation.tasks.validate import Validation, validate

from . import published


def _sized(name: str, **counts: Any) -> Task:
    """The task with the numbers of the tiny data sets."""
    return get_task(name).model_copy(update={"expected": Expected(**counts)})


def _texts(found: Validation, kind: str) -> list[str]:
    return [f"{p.where}: {p.text}" for p in found.problems if p.kind == kind]


@pytest.mark.parametrize(
    ("name", "write", "counts"),
    [
        ("vnbench", published.vnbench, {"questions": 8, "videos": 2, "per_video": 4}),
        ("videomme", published.videomme, {"questions": 6, "videos": 2, "per_video": 3}),
        (
            "videomme-subtitles",
            published.videomme,
            {"questions": 6, "subtitles": 1, "groups": {"duration": {"short": 3}}},
        ),
        ("longvideobench", published.longvideobench, {"questions": 3, "videos": 2}),
        ("longvideobench", published.longvideobench_parquet, {"questions": 3, "videos": 2}),
        ("mlvu", published.mlvu, {"questions": 14, "videos": 7}),
        ("nextqa", published.nextqa, {"questions": 4, "videos": 2}),
        ("nextqa", published.nextqa_csv, {"questions": 4, "videos": 2}),
        ("egoschema", published.egoschema, {"questions": 3, "videos": 3}),
        ("egoschema-subset", published.egoschema_parquet, {"questions": 2, "videos": 2}),
    ],
)
def test_whole_files_are_sound(
    tmp_path: Path, name: str, write: Callable[[Path], None], counts: dict[str, Any]
) -> None:
    write(tmp_path)
    found = validate(_sized(name, **counts), tmp_path)
    assert found.problems == ()
    assert found.ok
    assert found.commands == ()
    assert found.found == found.videos > 0
    assert found.differences == ()
    # The same files are not the published ones: their numbers are told, and no download offered.
    part = validate(get_task(name), tmp_path)
    assert part.differences
    assert part.ok
    assert part.commands == ()


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    found = validate(get_task("longvideobench"), tmp_path)
    assert _texts(found, "file") == [
        f"{tmp_path}/longvideobench/lvb_val.json: missing; validation-*.parquet would do instead; "
        f"looked in {tmp_path} too"
    ]
    assert found.commands == (
        "# the parts of the tar archive have to be unpacked; then they can be deleted",
        "# accept the terms at https://huggingface.co/datasets/longvideobench/LongVideoBench first",
        "hf auth login",
        "hf download longvideobench/LongVideoBench --repo-type dataset --local-dir "
        f"{tmp_path}/longvideobench --include 'lvb_val.json' --include 'videos.tar.part.*'",
        f"(cd {tmp_path}/longvideobench && cat videos.tar.part.* | tar xf -)",
    )


def test_no_such_folder(tmp_path: Path) -> None:
    found = validate(get_task("mlvu"), tmp_path / "none")
    assert _texts(found, "file") == [f"{tmp_path}/none: is no folder and no file"]
    assert not found.ok


def test_one_of_several_files_is_missing(tmp_path: Path) -> None:
    published.mlvu(tmp_path)
    (tmp_path / "mlvu/json/3_ego.json").unlink()
    found = validate(get_task("mlvu"), tmp_path)
    assert _texts(found, "file") == [f"{tmp_path}/mlvu/json/3_ego.json: missing"]


def test_answers_that_are_in_a_file_of_their_own_are_missing(tmp_path: Path) -> None:
    published.egoschema(tmp_path)
    (tmp_path / "egoschema/subset_answers.json").unlink()
    found = validate(get_task("egoschema-subset"), tmp_path)
    assert _texts(found, "file") == [f"{tmp_path}/egoschema/subset_answers.json: missing"]
    assert validate(_sized("egoschema"), tmp_path).ok


def _change_vnbench(root: Path, change: Callable[[list[Any]], object]) -> Validation:
    published.vnbench(root)
    path = root / "vnbench/VNBench-main-4try.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    return validate(_sized("vnbench"), root)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (lambda rows: rows[2].pop("question"), "row", "row 3: got no field 'question'"),
        (lambda rows: rows[2].update(question="  "), "row", "row 3: got 'question': '  '"),
        (lambda rows: rows[1].update(options=[]), "row", "row 2: got 'options': '[]'"),
        (lambda rows: rows[1].update(options="a, b"), "row", "expected a list of texts"),
        (lambda rows: rows[1].update(options=["a", None]), "row", "expected texts only"),
        (lambda rows: rows[1].update(options=["pear"], gt_option="A"), "row", "got 1 options"),
        (lambda rows: rows.insert(3, "text"), "row", "row 4: got 'text', expected a JSON object"),
        (
            lambda rows: rows.append(rows[0]),
            "duplicate",
            "row 9: got the id '101_ret_insert1_try0'",
        ),
        (
            lambda rows: rows[5].update(video="other/101_ret_insert1.mp4", **{"try": 7}),
            "duplicate",
            "as video '101_ret_insert1', which is 'VNBench_new/101_ret_insert1.mp4'",
        ),
        (
            lambda rows: rows[0].update(gt="kiwi", gt_option=None),
            "answer",
            "row 1: got the answer 'kiwi', expected one of",
        ),
        (lambda rows: rows[0].update(gt_option="B"), "answer", "'apple', but the letter 'B'"),
        (
            lambda rows: [r.update(video="x.mp4", **{"try": i}) for i, r in enumerate(rows)],
            "video",
            "row 1: got no file for video 'x.mp4'",
        ),
    ],
)
def test_a_wrong_row_is_named(
    tmp_path: Path, change: Callable[[list[Any]], object], kind: str, text: str
) -> None:
    found = _change_vnbench(tmp_path, change)
    assert len(found.problems) == 1
    assert text in _texts(found, kind)[0]
    assert _texts(found, kind)[0].startswith("VNBench-main-4try.json, row ")
    assert found.questions >= 7


def test_the_other_rows_are_read(tmp_path: Path) -> None:
    _change_vnbench(tmp_path, lambda rows: (rows[2].pop("question"), rows[4].pop("options")))
    task = get_task("vnbench")
    with pytest.raises(ConfigError, match=r"row 3: got no field 'question'.*\(and 1 more\)"):
        task.items(tmp_path)
    assert len(task.read(tmp_path).items) == 6


def test_answers_and_options_of_columns(tmp_path: Path) -> None:
    rows = published.nextqa_rows()
    rows[0]["answer"], rows[1]["answer"] = 5, None
    for row in rows:
        row["a3"] = None  # a blank option, as tables write it
    published.write_parquet(tmp_path / "nextqa/MC/test-00000-of-00001.parquet", rows)
    published.touch(tmp_path / "nextqa/3238737531.mp4")
    found = validate(_sized("nextqa"), tmp_path)
    table = "MC/test-00000-of-00001.parquet"
    assert [f"{p.where}: {p.text}" for p in found.problems] == [
        f"{table}, row 1: got the answer 5, expected a number from 0 to 4",
        f"{table}, row 2: got the answer None, expected a number from 0 to 4",
    ]
    assert [problem.kind for problem in found.problems] == ["answer", "answer"]
    assert {item.options[3] for item in get_task("nextqa").read(tmp_path).items} == {""}


def test_answers_are_no_texts_of_options(tmp_path: Path) -> None:
    """MLVU's real files have two: these rows stay out, and the others are read."""
    published.mlvu(tmp_path)
    path = tmp_path / "mlvu/json/4_count.json"
    rows = json.loads(path.read_text())
    rows[0]["answer"] = "Purple"
    published.write_json(path, rows)
    found = validate(_sized("mlvu"), tmp_path)
    assert (found.ok, found.questions) == (True, 13)
    assert found.notes == (
        "1 row left out: the answer is none of the options (json/4_count.json, row 1)",
        "1 row left out: blank (json/7_topic_reasoning.json, row 3)",
    )
    # Its number is not given to the next question about the video.
    ids = [item.question_id for item in get_task("mlvu").items(tmp_path)]
    assert [name for name in ids if "count" in name] == ["4_count-movie101_66-2"]


@pytest.mark.parametrize(
    ("name", "path", "content", "text"),
    [
        ("vnbench", "vnbench/VNBench-main-4try.json", "[{", "is no JSON"),
        ("vnbench", "vnbench/VNBench-main-4try.json", '"text"', "got str, expected a list"),
        ("vnbench", "vnbench/VNBench-main-4try.json", "\udcff", "cannot be read"),
        ("nextqa", "nextqa/MC/test-00000-of-00001.parquet", "PAR1", "is no parquet file"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, name: str, path: str, content: str, text: str
) -> None:
    published.touch(tmp_path / path)
    (tmp_path / path).write_bytes(content.encode("utf-8", "surrogateescape"))
    found = validate(get_task(name), tmp_path)
    assert len(found.problems) == 1
    assert re.search(text, _texts(found, "file")[0])


def test_a_zip_that_is_cut_off(tmp_path: Path) -> None:
    published.videomme(tmp_path)
    path = tmp_path / "videomme/videos_chunked_02.zip"
    path.write_bytes(path.read_bytes()[:40])
    found = validate(_sized("videomme"), tmp_path)
    assert _texts(found, "file") == [f"{path}: is no zip, or is cut off"]
    assert len(_texts(found, "video")) == 1
    assert (found.videos, found.found) == (2, 1)


def test_tar_parts_are_pointed_out(tmp_path: Path) -> None:
    published.longvideobench(tmp_path)
    published.longvideobench_parts(tmp_path / "longvideobench")
    found = validate(_sized("longvideobench"), tmp_path)
    assert len(_texts(found, "video")) == 2
    assert found.notes[0].startswith("2 parts of tar archives are there (videos.tar.part.aa...)")
    unpack = found.commands[-1]
    assert shutil.which("tar")
    subprocess.run(unpack, shell=True, check=True)
    assert validate(_sized("longvideobench"), tmp_path).ok


def test_counts_are_compared(tmp_path: Path) -> None:
    published.vnbench(tmp_path)
    path = tmp_path / "vnbench/VNBench-main-4try.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    found = validate(get_task("vnbench"), tmp_path)
    assert found.differences == (
        "7 questions, the published are 5400",
        "2 videos, the published are 1350",
        "3 questions about '102_cnt_edit1', the published are 4",
    )
    assert found.ok
    # A video that the questions of a part name has to be there all the same.
    (tmp_path / "vnbench/VNBench_new/102_cnt_edit1.mp4").unlink()
    found = validate(get_task("vnbench"), tmp_path)
    assert not found.ok
    assert found.commands


@pytest.mark.parametrize(
    ("videos", "subtitles", "ok"),
    [(2, 2, False), (2, 1, True), (900, 744, True), (900, 0, False)],
)
def test_subtitles_are_missed(tmp_path: Path, videos: int, subtitles: int, ok: bool) -> None:
    """Of two videos one has subtitles: too few if these are all videos, fine if they are a part."""
    published.videomme(tmp_path)
    task = _sized("videomme-subtitles", videos=videos, subtitles=subtitles or 744)
    if not subtitles:
        (tmp_path / "videomme/subtitle.zip").unlink()
    found = validate(task, tmp_path)
    assert found.ok == ok
    assert any("got subtitles of" in text for text in _texts(found, "file")) != ok


def test_without_videos_nothing_is_said_of_them(tmp_path: Path) -> None:
    published.videomme(tmp_path)
    (tmp_path / "videomme/videos_chunked_01.zip").unlink()
    found = validate(_sized("videomme"), tmp_path, videos=False)
    assert found.ok
    assert found.found is None


def test_nothing_but_blank_rows(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("\n")
    found = validate(get_task("custom"), tmp_path / "mine.jsonl")
    assert _texts(found, "file") == [f"{tmp_path}: got no questions at all"]
    assert not found.ok


CUSTOM = """\
{"video": "clip.mp4", "question": "Which?", "options": ["yes", "no"], "answer": "maybe"}
{"video": "clip.mp4", "question": "Which?", "options": ["yes", "yes"], "answer": "yes"}
{"video": "clip.mp4", "question": "Which?", "options": ["yes", "no"]}
{"video": "clip.mp4", "question": "Which?", "answer": "yes", "groups": "red"}
{"video": "clip.mp4",
{"video": "clip.mp4", "question": "Which?", "answer": "yes"}
"""


def test_custom_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(CUSTOM)
    published.touch(tmp_path / "clip.mp4")
    found = validate(get_task("custom"), file)
    assert [(p.where, p.kind) for p in found.problems] == [
        ("mine.jsonl, row 1", "answer"),
        ("mine.jsonl, row 2", "row"),
        ("mine.jsonl, row 3", "answer"),
        ("mine.jsonl, row 4", "row"),
        ("mine.jsonl, row 5", "row"),
    ]
    assert found.questions == 1


WRONG_LINES: dict[str, tuple[dict[str, Any], str]] = {
    "no options": ({"options": []}, "got no options in 'options', expected two or more, or no"),
    "misspelt": ({"option": ["x", "y"]}, "unknown field 'option'. Did you mean 'options'?"),
    "capital": ({"Options": ["x", "y"]}, "unknown field 'Options'. Did you mean 'options'?"),
    "unknown": ({"choices": ["x", "y"]}, "unknown field 'choices'. Known: answer, groups"),
    "one text": ({"options": "x, y"}, "expected a list of texts"),
    "equal": ({"options": ["1", "1 ", "2"]}, "got the option '1' twice, expected different ones"),
    "a letter and a text": (
        {"options": ["B", "A", "C"], "answer": "A"},
        "got the answer 'A', a letter and a text, expected '(A)' for 'B' or '(B)' for 'A'",
    ),
    "neither": ({"options": ["x", "y"], "answer": "(C)"}, "expected a letter of AB, or the text"),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_custom_line_that_could_be_misread(tmp_path: Path, name: str) -> None:
    fields, told = WRONG_LINES[name]
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"video": "a.mp4", "question": "Q?", "answer": "B", **fields}))
    found = validate(get_task("custom"), file, videos=False)
    assert found.questions == 0
    assert told in found.problems[0].text


def test_a_made_task_is_always_sound() -> None:
    found = validate(get_task("needle"), None)
    assert found.ok
    assert (found.folder, found.found) == (None, None)
