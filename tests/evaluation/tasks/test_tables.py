"""Question files as other tools write them, and files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sttm.errors import ConfigError, SttmError
from sttm.evaluation.tasks import get_task, list_tasks
from sttm.evaluation.tasks.readers import CUSTOM_FIELDS

from . import published

LINE = {"video": "a.mp4", "question": "Café?", "options": ["x", "y"], "answer": "B"}
TEXT = json.dumps(LINE, ensure_ascii=False)

SAME = {
    "as it is": TEXT.encode(),
    "mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "mark and CRLF": b"\xef\xbb\xbf" + TEXT.encode() + b"\r\n",
    "CRLF and blank lines": b"\r\n" + TEXT.encode() + b"\r\n\r\n",
    "CR": b"\r" + TEXT.encode() + b"\r",
    "a mark inside": b"\n" + b"\xef\xbb\xbf" + TEXT.encode() + b"\n",
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-32": TEXT.encode("utf-32"),
}


def _write(root: Path, content: str | bytes) -> Path:
    file = root / "mine.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("name", SAME)
def test_encodings_and_ends_of_lines_change_nothing(tmp_path: Path, name: str) -> None:
    (item,) = get_task("custom").items(_write(tmp_path, SAME[name]), videos=False)
    assert (item.question, item.options, item.answer) == ("Café?", ("x", "y"), "B")


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "null", "N/A", "NA", "inf", "-", "0", "."])
def test_no_text_stands_for_a_gap(tmp_path: Path, text: str) -> None:
    line = {**LINE, "question": text, "options": [text, "y"], "answer": text}
    (item,) = get_task("custom").items(_write(tmp_path, json.dumps(line)), videos=False)
    assert (item.question, item.options, item.answer) == (text, (text, "y"), "A")


def test_other_ends_of_lines_are_part_of_a_text(tmp_path: Path) -> None:
    line = json.dumps({**LINE, "question": "a\u2028b\x85c"}, ensure_ascii=False)
    (item,) = get_task("custom").items(_write(tmp_path, f"{line}\n"), videos=False)
    assert item.question == "a\u2028b\x85c"


WRONG = {
    "nested": ("[" * 100_000, "is nested too deep"),
    "nested objects": ('{"a":' * 100_000, "is nested too deep"),
    "nested options": (
        TEXT.replace('"x"', "[" * 300 + '"x"' + "]" * 300),
        "nested more than 20 levels",
    ),
    "half a character": (json.dumps({**LINE, "question": "a\ud800b"}), r"character '\\ud800'"),
    "half a character as a name": (json.dumps({**LINE, "\udc80": 1}), r"character '\\udc80'"),
    "half in an option": (json.dumps({**LINE, "options": ["\udfff", "y"]}), "stands for nothing"),
    "NUL": (json.dumps({**LINE, "video": "a\0.mp4"}), r"character '\\x00'"),
    "raw NUL": (TEXT.replace("x", "\0"), "is no JSON"),
    "a field twice": (TEXT.replace("{", '{"answer": "A", ', 1), "the field 'answer' twice"),
    "a group twice": (
        TEXT.replace("{", '{"groups": {"k": 1, "k": 2}, ', 1),
        "the field 'k' twice",
    ),
    "many digits": (TEXT.replace('"B"', "9" * 5000), "Exceeds the limit"),
    "a number of NaN": (TEXT.replace('"B"', "NaN"), "got no answer"),
    "options of NaN": (TEXT.replace('"x"', "NaN"), "expected texts only"),
    "options of Infinity": (TEXT.replace('"x"', "-Infinity"), "expected texts only"),
    "options too large": (TEXT.replace('"x"', "1e999"), "expected texts only"),
    "a blank option": (TEXT.replace('"x"', '" "'), "not blank"),
    "cut off": (TEXT[:-5], "expected a JSON object"),
    "two on a line": (TEXT + TEXT, "expected a JSON object"),
    "no object": ("3", "expected a JSON object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_line_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    line, told = WRONG[name]
    file = _write(tmp_path, f"{TEXT}\n\n{line}\n{TEXT}\n")
    with pytest.raises(ConfigError, match=rf"mine\.jsonl, row 3: .*{told}") as caught:
        get_task("custom").items(file, videos=False)
    str(caught.value).encode()  # can be printed
    assert len(get_task("custom").read(file, videos=False).items) == 2


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    file = _write(tmp_path, f"{TEXT}\n".encode() + b'{"video": "\xff"}')
    with pytest.raises(ConfigError, match=r"mine\.jsonl: cannot be read \(line 2: 'utf-8' codec"):
        get_task("custom").items(file, videos=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 100_000, "is nested too deep"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        ('{"a": 1, "a": 2}', "the field 'a' twice"),
    ],
)
def test_a_json_file_that_cannot_be_read(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "VNBench-main-4try.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"VNBench-main-4try\.json: .*{told}"):
        get_task("vnbench").items(tmp_path, videos=False)


def test_a_json_file_with_a_mark(tmp_path: Path) -> None:
    rows = published.vnbench_rows("1_ret_edit", "ret_edit")
    content = json.dumps(rows).replace('"gt":', '"note": "\\ud800", "gt":', 1)
    (tmp_path / "VNBench-main-4try.json").write_bytes(b"\xef\xbb\xbf" + content.encode())
    reading = get_task("vnbench").read(tmp_path, videos=False)
    assert len(reading.items) == 3
    assert [problem.where for problem in reading.problems] == ["VNBench-main-4try.json, row 1"]


HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
CELLS = "v,9,6,4,why,1,{0},CW,nan,None,N/A,x,y"


def _nextqa(root: Path, content: bytes) -> list[str]:
    (root / "test.csv").write_bytes(content)
    reading = get_task("nextqa").read(root, videos=False)
    assert all(item.options == ("nan", "None", "N/A", "x", "y") for item in reading.items)
    return [f"{problem.where}: {problem.text}" for problem in reading.problems]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv(tmp_path: Path, encoding: str) -> None:
    content = f"{HEADER}\r\n{CELLS.format(0)}\r\n\r\n{CELLS.format(1)}\r\n"
    assert _nextqa(tmp_path, content.encode(encoding)) == []


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (CELLS.format(1) + ",more", "row 2: got 14 columns, expected 13"),
        (CELLS.format(1).replace("why", "w\0y"), "row 2: got the character '\\x00'"),
        (CELLS.format(1)[:-4], "row 2: got 11 columns, expected 13"),
        (CELLS.format(1).replace("why", "w" * 200_000), "line 3: field larger than field limit"),
        (CELLS.format(1).replace("why", '"why'), "line 3: unexpected end of data"),
    ],
)
def test_a_row_of_a_csv_that_is_none(tmp_path: Path, row: str, told: str) -> None:
    content = f"{HEADER}\n{CELLS.format(0)}\n{row}\n{CELLS.format(2)}\n"
    (problem,) = _nextqa(tmp_path, content.encode())
    assert "test.csv" in problem
    assert told in problem


def test_a_column_twice(tmp_path: Path) -> None:
    content = f"{HEADER},a1\n{CELLS.format(0)},z\n"
    (problem,) = _nextqa(tmp_path, content.encode())
    assert "got the column 'a1' twice" in problem


def test_only_the_padding_of_options_is_left_out(tmp_path: Path) -> None:
    row = published.longvideobench_rows()[2]
    del row["candidates"]
    texts = ["N/A", "seen", "unseen", "N/A", None]
    row.update({f"option{i}": text for i, text in enumerate(texts)}, correct_choice=1)
    published.write_parquet(tmp_path / "validation-00000-of-00001.parquet", [row])
    (item,) = get_task("longvideobench").items(tmp_path, videos=False)
    assert (item.options, item.answer) == (("N/A", "seen", "unseen"), "B")


@pytest.mark.parametrize("name", ["v" * 5000 + ".mp4", "a/" * 3000, ".", "..", "/", "~", "*"])
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path, json.dumps({**LINE, "video": name}))
    reading = get_task("custom").read(file)
    assert [problem.kind for problem in reading.problems] == ["video"]
    assert len(reading.problems[0].text) < 500


# Any bytes give items or an error of ours.

PIECES = st.sampled_from(
    [TEXT, "\ufeff", "\n", "\r\n", "{", "}", "[", "]", ",", '"', "\\ud800", "NaN", "1e999", "\0"]
)
BYTES = st.one_of(
    st.binary(max_size=80),
    st.lists(PIECES, max_size=12).map(lambda parts: "".join(parts).encode()),
    st.lists(PIECES, max_size=6).map(lambda parts: "".join(parts).encode("utf-16")),
)
FILES = (
    ("custom", "mine.jsonl"),
    ("vnbench", "VNBench-main-4try.json"),
    ("nextqa", "test.csv"),
    ("nextqa", "test-0.parquet"),
)
BOUNDED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)


def _reads(name: str, root: Path) -> None:
    """Items, or an error that can be printed; problems of rows and files have places."""
    task = get_task(name)
    reading = task.read(root)
    for problem in reading.problems:
        assert problem.where
        f"{problem.where}: {problem.text}".encode()
    try:
        items = task.items(root)
    except SttmError as error:
        str(error).encode()
    else:
        for item in items:
            task.prompt(item).encode()


@BOUNDED
@given(BYTES, st.sampled_from(FILES))
def test_any_bytes(tmp_path: Path, data: bytes, kind: tuple[str, str]) -> None:
    (tmp_path / kind[1]).write_bytes(data)
    _reads(kind[0], tmp_path / kind[1])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["A", "(A)", "x", "nan", "a.mp4", "../a.mp4", "\ud800", "\0", 10**400]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@BOUNDED
@given(st.data())
def test_any_values(tmp_path: Path, data: st.DataObject) -> None:
    """Rows with the right fields and any values, of every task that reads files."""
    name = data.draw(st.sampled_from([n for n in list_tasks() if not get_task(n).made]))
    row: dict[str, Any] = dict(SOUND[get_task(name).reader])
    for field in data.draw(st.lists(st.sampled_from(sorted(row)), max_size=3)):
        row[field] = data.draw(VALUES)
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([row, row]))
    _reads(name, file)


SOUND: dict[str, dict[str, Any]] = {
    "custom": {**LINE, "id": "q", "groups": {}},
    "vnbench": published.vnbench_rows("1_ret_edit", "ret_edit")[0],
    "videomme": published.videomme_rows()[0],
    "longvideobench": published.longvideobench_rows()[0],
    "mlvu": {
        "video": "m.mp4",
        "duration": 480.05,
        "question": "What?",
        "candidates": ["Yellow", "Red"],
        "answer": "Red",
        "question_type": "plotQA",
    },
    "nextqa": published.nextqa_rows()[0],
    "egoschema": {
        "q_uid": "u",
        "question": "What?",
        **{f"option {i}": f"C does {i}." for i in range(5)},
        "answer": 1,
    },
}
SOUND["egoschema-subset"] = SOUND["egoschema"]
SOUND["custom-grounding"] = {"video": "a.mp4", "question": "When?", "answer": "4 to 7.5"}


def test_the_sound_rows_are_sound(tmp_path: Path) -> None:
    """So that what the test above changes is what is refused."""
    assert set(SOUND["custom"]) == set(CUSTOM_FIELDS)
    for name in list_tasks():
        task = get_task(name)
        if not task.made:
            file = tmp_path / "rows.json"
            file.write_text(json.dumps([SOUND[task.reader]]))
            assert len(task.read(file, videos=False).items) == 1
