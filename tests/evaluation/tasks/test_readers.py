"""The published files, read."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from sttm.errors import ConfigError, VideoError, WriteError
from sttm.evaluation.tasks import Item, get_task
from sttm.evaluation.tasks.media import length_of, take_out
from sttm.video import write_video

from . import published

Write = Callable[[Path], None]


def _items(name: str, root: Path) -> dict[str, Item]:
    items = get_task(name).items(root)
    assert len({item.question_id for item in items}) == len(items)
    return {item.question_id: item for item in items}


def test_vnbench(tmp_path: Path) -> None:
    published.vnbench(tmp_path)
    items = _items("vnbench", tmp_path)
    assert len(items) == 8
    item = items["101_ret_insert1_try1"]
    assert item.video_id == "101_ret_insert1"
    assert item.video == tmp_path / "vnbench/VNBench_new/101_ret_insert1.mp4"
    assert item.options == ("pear", "plum", "fig", "apple")
    assert item.answer == "D"
    assert item.groups == {"task_type": "ret_insert2", "duration": "short"}
    assert items["102_cnt_edit1_try0"].groups["duration"] == "long"


def test_vnbench_without_the_letter_and_with_numbers_as_options(tmp_path: Path) -> None:
    rows = published.vnbench_rows("1_cnt_edit1", "cnt_edit1")
    for row in rows:
        del row["gt_option"]
        row["options"], row["gt"], row["length"] = [1, 2, 3, 4], 3, "short"
    published.write_json(tmp_path / "VNBench-main-4try.json", rows)
    published.touch(tmp_path / "elsewhere/1_cnt_edit1.mp4")
    items = _items("vnbench", tmp_path)
    assert items["1_cnt_edit1_try0"].answer == "C"
    assert items["1_cnt_edit1_try0"].options == ("1", "2", "3", "4")
    assert "duration" not in items["1_cnt_edit1_try0"].groups


def test_videomme(tmp_path: Path) -> None:
    published.videomme(tmp_path)
    items = _items("videomme", tmp_path)
    assert list(items) == ["001-1", "001-2", "001-3", "002-1", "002-2", "002-3"]
    item = items["001-2"]
    assert item.video_id == "fFjv93ACGo8"
    assert item.options == ("Apples.", "Candles.", "Berries.", "Three of the kinds.")
    assert item.answer == "B"
    assert item.groups["duration"] == "short"
    assert item.groups["task_type"] == "OCR Problems"
    assert item.subtitles is None


def test_a_video_is_taken_out_of_its_zip_when_it_is_needed(tmp_path: Path) -> None:
    published.videomme(tmp_path)
    task = get_task("videomme")
    item = task.items(tmp_path)[0]
    zipped = tmp_path / "videomme/videos_chunked_01.zip/data/fFjv93ACGo8.mp4"
    assert item.video == zipped
    path = task.video(item)
    assert path == tmp_path / "videomme/.videos/videos_chunked_01/data/fFjv93ACGo8.mp4"
    assert isinstance(path, Path)
    assert path.read_bytes() == published.VIDEO + b"data/fFjv93ACGo8.mp4"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # It is found there from now on, so the zip may go.
    (tmp_path / "videomme/videos_chunked_01.zip").unlink()
    assert task.items(tmp_path)[0].video == path
    assert task.video(item) != zipped


@pytest.mark.parametrize("member", ["../fFjv93ACGo8.mp4", "__MACOSX/fFjv93ACGo8.mp4"])
def test_members_outside_of_a_zip_are_not_taken_for_videos(tmp_path: Path, member: str) -> None:
    published.videomme(tmp_path)
    archive = tmp_path / "videomme/videos_chunked_01.zip"
    published.write_zip(archive, member)
    published.write_zip(tmp_path / "videomme/other.zip", str(tmp_path / "fFjv93ACGo8.mp4"))
    assert get_task("videomme").items(tmp_path)[0].video is None
    with pytest.raises(VideoError, match="inside the zip's root"):
        take_out(archive / "../../fFjv93ACGo8.mp4")


def test_a_damaged_zip_member_is_an_error(tmp_path: Path) -> None:
    published.videomme(tmp_path)
    archive = tmp_path / "videomme/videos_chunked_01.zip"
    content = bytearray(archive.read_bytes())
    content[50] ^= 255
    archive.write_bytes(content)
    task = get_task("videomme")
    with pytest.raises(VideoError, match="Download the zip again"):
        task.video(task.items(tmp_path)[0])
    assert not list((tmp_path / "videomme/.videos").rglob("*.*"))


def test_a_zip_that_cannot_be_unpacked_for_want_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.videomme(tmp_path)
    task = get_task("videomme")
    item = task.items(tmp_path)[0]

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(WriteError, match=r"No space left.*unzip '.*videos_chunked_01.zip'"):
        task.video(item)
    assert not list((tmp_path / "videomme/.videos").rglob("*.*"))


def test_videomme_with_subtitles(tmp_path: Path) -> None:
    published.videomme(tmp_path)
    task = get_task("videomme-subtitles")
    spoken, silent = task.items(tmp_path)[0], task.items(tmp_path)[-1]
    assert spoken.subtitles == tmp_path / "videomme/subtitle.zip/subtitle/fFjv93ACGo8.srt"
    assert task.context(spoken, (0.0, 1.0, 1.5, 4.0)) == (
        "This video's subtitles are listed below: \nHello there.\n"
    )
    assert "Hello there.\nGoodbye.\n" in task.context(spoken, (1.0, 5.5))
    assert silent.subtitles is None
    assert "No subtitles available" in task.context(silent, (1.0,))
    assert get_task("videomme").context(spoken, (1.0,)) == ""


@pytest.mark.parametrize(
    "write", [published.longvideobench, published.longvideobench_parquet], ids=["json", "parquet"]
)
def test_longvideobench(tmp_path: Path, write: Write) -> None:
    write(tmp_path)
    items = _items("longvideobench", tmp_path)
    assert list(items) == ["86CxyhFV9MI_0", "86CxyhFV9MI_1", "7263_0"]
    assert [len(item.options) for item in items.values()] == [4, 5, 3]
    assert [item.answer for item in items.values()] == ["B", "E", "A"]
    cut = items["7263_0"]
    assert cut.video_id == "7263"
    assert cut.video == tmp_path / "longvideobench/videos/@some-user-7263.mp4"
    assert cut.groups == {"duration": "15", "task_type": "S2E"}


def test_padding_of_longvideobench_is_no_option_and_a_blank_text_is(tmp_path: Path) -> None:
    published.longvideobench_parquet(tmp_path)
    table = tmp_path / "longvideobench/validation-00000-of-00001.parquet"
    rows = pyarrow.parquet.read_table(table).to_pylist()
    rows[0].update(option1="N/A", option3="", option4="N/A", correct_choice=3)
    rows[1].update(option3=None, option4=None, correct_choice=2)
    published.write_parquet(table, rows)
    items = get_task("longvideobench").items(tmp_path)
    assert items[0].options == ("text 0", "N/A", "text 2", "")
    assert items[0].answer == "D"
    assert items[1].options == ("text 0", "text 1", "text 2")


def test_blanks_around_questions_and_options_stay(tmp_path: Path) -> None:
    """Models read them; answers and ids are compared without."""
    rows = published.vnbench_rows("1_ret_edit", "ret_edit")
    rows[0].update(question="Which? ", options=[" apple", "pear ", "plum", "fig"], gt="apple ")
    published.write_json(tmp_path / "VNBench-main-4try.json", rows[:1])
    item = get_task("vnbench").items(tmp_path, videos=False)[0]
    assert (item.question, item.options[:2], item.answer) == ("Which? ", (" apple", "pear "), "A")
    assert "Which? \nA.  apple.\n" in get_task("vnbench").prompt(item)


def test_mlvu_keeps_videos_of_the_same_name_apart(tmp_path: Path) -> None:
    published.mlvu(tmp_path)
    (tmp_path / "mlvu/video/3_ego/movie101_66.mp4").unlink()
    reading = get_task("mlvu").read(tmp_path)
    items = {item.question_id: item for item in reading.items}
    assert len(items) == 14
    item = items["1_plotQA-movie101_66-2"]
    assert item.video_id == "1_plotQA-movie101_66"
    assert item.video == tmp_path / "mlvu/video/1_plotQA/movie101_66.mp4"
    assert item.answer == "D"
    assert item.groups == {"task_type": "plotQA", "duration": "long"}
    assert items["3_ego-movie101_66-1"].video is None
    assert [problem.kind for problem in reading.problems] == ["video"]
    assert reading.notes == ["1 row left out: blank (json/7_topic_reasoning.json, row 3)"]


@pytest.mark.parametrize("write", [published.nextqa, published.nextqa_csv], ids=["parquet", "csv"])
def test_nextqa(tmp_path: Path, write: Write) -> None:
    write(tmp_path)
    items = _items("nextqa", tmp_path)
    assert list(items) == ["4010069381_0", "4010069381_1", "3238737531_0", "3238737531_1"]
    item = items["3238737531_1"]
    assert (item.video_id, item.answer, item.groups) == ("3238737531", "B", {"task_type": "DO"})
    assert item.video is not None
    assert item.video.name == "3238737531.mp4"
    assert item.options == tuple(f"reason {i}" for i in range(5))


@pytest.mark.parametrize(
    "write", [published.egoschema, published.egoschema_parquet], ids=["json", "parquet"]
)
def test_egoschema_hides_answers(tmp_path: Path, write: Write) -> None:
    write(tmp_path)
    items = get_task("egoschema").items(tmp_path)
    assert [item.question_id for item in items] == list(published.EGO_IDS)
    assert [item.answer for item in items] == ["D", None, "A"]
    assert items[0].options == tuple(f"C does {i}." for i in range(5))
    labelled = get_task("egoschema-subset").items(tmp_path)
    assert [item.question_id for item in labelled] == [published.EGO_IDS[0], published.EGO_IDS[2]]
    assert [item.answer for item in labelled] == ["D", "A"]
    assert {item.task for item in labelled} == {"egoschema-subset"}


@pytest.mark.parametrize("hidden", [None, "", " ", float("nan")])
def test_egoschema_copies_hide_answers_in_many_ways(tmp_path: Path, hidden: object) -> None:
    published.egoschema_parquet(tmp_path)
    table = tmp_path / "egoschema/MC/test-00000-of-00001.parquet"
    rows = [{**row, "answer": hidden} for row in pyarrow.parquet.read_table(table).to_pylist()]
    published.write_parquet(table, rows)
    items = get_task("egoschema").items(tmp_path)
    assert [item.answer for item in items] == ["D", None, "A"]


def test_durations_go_by_the_videos(tmp_path: Path) -> None:
    """In a folder or a zip; without a readable file by the length in the question file."""
    rows = [
        row
        for sample in ("1_ret_edit", "2_ret_edit", "3_ret_edit")
        for row in published.vnbench_rows(sample, "ret_edit", 59.9)
    ]
    published.write_json(tmp_path / "VNBench-main-4try.json", rows)
    clip = tmp_path / "1_ret_edit.mp4"
    write_video(np.zeros((61, 16, 16, 3), np.uint8), clip, fps=1)
    with zipfile.ZipFile(tmp_path / "videos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(clip, "v/2_ret_edit.mp4")
    published.touch(tmp_path / "3_ret_edit.mp4")
    task = get_task("vnbench")
    durations = [item.groups["duration"] for item in task.items(tmp_path)]
    assert durations == ["medium"] * 8 + ["short"] * 4
    assert not (tmp_path / ".videos").exists()
    assert {item.groups["duration"] for item in task.items(tmp_path, videos=False)} == {"short"}
    assert length_of(clip) == 61


def test_nextqa_has_durations_where_the_videos_are(tmp_path: Path) -> None:
    published.nextqa_csv(tmp_path)
    clip = tmp_path / "nextqa/NExTVideo/4010069381.mp4"
    write_video(np.zeros((121, 16, 16, 3), np.uint8), clip, fps=1)
    durations = [item.groups.get("duration") for item in get_task("nextqa").items(tmp_path)]
    assert durations == ["long", "long", None, None]


CUSTOM = """\
{"video": "a/clip.mp4", "question": "Which?", "options": ["yes", "no"], "answer": "no"}
{"video": "b/clip.mp4", "question": "What?", "answer": "a dog", "groups": {"kind": "open"}}

{"video": "a/clip.mp4", "question": "{braces}?", "options": ["1", "2"], "answer": "A", "id": "x"}
"""


def test_custom(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(CUSTOM)
    published.touch(tmp_path / "a/clip.mp4", tmp_path / "b/clip.mp4")
    task = get_task("custom")
    items = task.items(file)
    assert [item.question_id for item in items] == ["a-clip-0", "b-clip-0", "x"]
    assert [item.video_id for item in items] == ["a-clip", "b-clip", "a-clip"]
    assert [item.answer for item in items] == ["B", "a dog", "A"]
    assert items[1].video == tmp_path / "b/clip.mp4"
    assert items[1].groups == {"kind": "open"}
    assert task.prompt(items[1]) == "What?"
    assert "{braces}?\nA. 1\nB. 2\n" in task.prompt(items[2])
    assert task.items(tmp_path) == items


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["B", "A", "C"], "(A)", "A"),
        (["B", "A", "C"], "(B)", "B"),
        (["B", "A", "C"], "C", "C"),
        (["A", "x"], "A", "A"),
        (["(B)", "(A)"], "(A)", "B"),
        (["(B)", "(A)"], "A", "A"),
        (["2", "3"], 3, "B"),
        (None, "(A)", "(A)"),
    ],
)
def test_the_answer_to_a_custom_question(
    tmp_path: Path, options: list[str] | None, answer: object, letter: str
) -> None:
    file = tmp_path / "mine.jsonl"
    line = {"video": "a.mp4", "question": "Q?", "options": options, "answer": answer, "_by": "me"}
    file.write_text(json.dumps(line))
    (item,) = get_task("custom").items(file, videos=False)
    assert item.answer == letter


def test_equal_options_of_a_benchmark_are_its_own_business(tmp_path: Path) -> None:
    rows = published.vnbench_rows("1_ret_edit", "ret_edit")[:1]
    rows[0].update(options=["fig", "pear", "fig", "plum"], gt="fig", gt_option="C")
    published.write_json(tmp_path / "VNBench-main-4try.json", rows)
    (item,) = get_task("vnbench").items(tmp_path, videos=False)
    assert (item.options.count("fig"), item.answer) == (2, "C")


def test_a_video_has_one_id_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    published.touch(data / "ok.mp4", data / "sub/ok.mp4", tmp_path / "other/ok.mp4")
    (tmp_path / "link").symlink_to(data)
    inside = ["ok.mp4", "./ok.mp4", "../data/ok.mp4", "sub/../ok.mp4", str(data / "ok.mp4")]
    inside.append(str(tmp_path / "link" / "ok.mp4"))
    outside = ["../other/ok.mp4", str(tmp_path / "other/ok.mp4")]
    lines = [{"video": name, "question": "Q?", "answer": "x"} for name in [*inside, *outside]]
    file = data / "mine.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = get_task("custom")
    monkeypatch.chdir(data)
    for root in (file, data, tmp_path / "link", Path("mine.jsonl"), Path("../link/mine.jsonl")):
        items = task.items(root)
        ids = [item.video_id for item in items]
        assert ids == ["ok"] * len(inside) + ["..-other-ok"] * len(outside)
        assert [item.question_id for item in items][:3] == ["ok-0", "ok-1", "ok-2"]
        assert len({item.video for item in items}) == 2
        assert all(item.video is not None and item.video.is_file() for item in items)
        # The ids do not depend on whether the videos are looked for.
        assert [item.video_id for item in task.items(root, videos=False)] == ids


def test_links_to_other_disks_are_names_like_others(tmp_path: Path) -> None:
    published.touch(tmp_path / "disk/a.mp4")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/videos").symlink_to(tmp_path / "disk")
    file = tmp_path / "data/mine.jsonl"
    file.write_text('{"video": "videos/a.mp4", "question": "Q?", "answer": "x"}')
    assert [item.video_id for item in get_task("custom").items(file)] == ["videos-a"]


def test_needle_needs_no_files() -> None:
    task = get_task("needle")
    items = task.items(None)
    assert len({item.video_id for item in items}) == 40
    video = task.video(items[0])
    assert not isinstance(video, Path)
    assert len(video.frames) == len(video.timestamps) == 16
    assert task.prompt(items[0]) == items[0].question
    assert {"count", "digit", "relation"} <= {item.groups["task_type"] for item in items}


def test_a_made_video_is_the_one_that_its_questions_are_about() -> None:
    from sttm.nano.questions import scene_questions
    from sttm.nano.scenes import make_scene

    task = get_task("needle")
    item = task.items(None)[-1]
    clip = make_scene(int(item.extra["seed"]), 16, kind=item.extra["kind"])
    video = task.video(item)
    assert not isinstance(video, Path)
    assert (video.frames == clip.frames).all()
    asked = scene_questions(clip, clip.seed)[-1]
    assert (item.question, item.answer) == (asked.text, asked.answer)


def test_some_types_of_questions_are_the_same_questions() -> None:
    needle = get_task("needle")
    pans = needle.scenes.model_copy(update={"task_types": ("pan",)})
    asked = needle.model_copy(update={"scenes": pans}).items(None)
    assert asked == [i for i in needle.items(None) if i.groups["task_type"] == "pan"]
    assert 0 < len(asked) <= 10


def test_videos_need_not_be_there(tmp_path: Path) -> None:
    published.nextqa(tmp_path)
    (tmp_path / "nextqa/videos.zip").unlink()
    task = get_task("nextqa")
    assert len(task.items(tmp_path, videos=False)) == 4
    with pytest.raises(ConfigError, match="sttm eval validate nextqa"):
        task.items(tmp_path)
    published.touch(tmp_path / "nextqa/4010069381.mp4")
    items = task.items(tmp_path)
    with pytest.raises(VideoError, match="3238737531"):
        task.video(items[-1])


def test_the_folder_of_the_task_itself_is_a_data_root_too(tmp_path: Path) -> None:
    published.nextqa(tmp_path)
    task = get_task("nextqa")
    assert task.items(tmp_path / "nextqa") == task.items(tmp_path)


def test_one_data_set_is_not_taken_for_another(tmp_path: Path) -> None:
    published.nextqa(tmp_path)
    with pytest.raises(ConfigError, match="missing"):
        get_task("egoschema").items(tmp_path)


def test_no_data_root_is_an_error() -> None:
    with pytest.raises(ConfigError, match="got no data root"):
        get_task("mlvu").items(None)
