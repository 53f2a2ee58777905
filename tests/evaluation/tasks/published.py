"""Tiny data sets in the formats in which the true ones are published."""

import csv
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

MLVU_FILES = (
    "1_plotQA",
    "2_needle",
    "3_ego",
    "4_count",
    "5_order",
    "6_anomaly_reco",
    "7_topic_reasoning",
)
VIDEO = b"no real video, only a file"


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(VIDEO)


def write_zip(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, VIDEO + name.encode())


def vnbench_rows(sample: str, kind: str, length: float = 30.5) -> list[dict[str, Any]]:
    texts = ["apple", "pear", "plum", "fig"]
    return [
        {
            "video": f"VNBench_new/{sample}.mp4",
            "question": "Which fruit is shown?",
            "options": texts[k:] + texts[:k],
            "gt": "apple",
            "gt_option": "ADCB"[k],
            "needle_time": [3.0, 4.0],
            "length": length,
            "type": kind,
            "try": k,
        }
        for k in range(4)
    ]


def vnbench(root: Path) -> None:
    rows = vnbench_rows("101_ret_insert1", "ret_insert2") + vnbench_rows(
        "102_cnt_edit1", "cnt_edit1", 130.0
    )
    write_json(root / "vnbench/VNBench-main-4try.json", rows)
    touch(
        root / "vnbench/VNBench_new/101_ret_insert1.mp4",
        root / "vnbench/VNBench_new/102_cnt_edit1.mp4",
    )


def videomme_rows() -> list[dict[str, Any]]:
    return [
        {
            "video_id": f"{video:03}",
            "duration": ("short", "medium")[video - 1],
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "url": "https://example.org",
            "videoID": ("fFjv93ACGo8", "N1cdUjctpG8")[video - 1],
            "question_id": f"{video:03}-{place}",
            "task_type": "OCR Problems",
            "question": f"Question {place}?",
            "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. Three of the kinds."],
            "answer": "ABC"[place - 1],
        }
        for video in (1, 2)
        for place in (1, 2, 3)
    ]


def videomme(root: Path) -> None:
    write_parquet(root / "videomme/videomme/test-00000-of-00001.parquet", videomme_rows())
    write_zip(root / "videomme/videos_chunked_01.zip", "data/fFjv93ACGo8.mp4")
    write_zip(root / "videomme/videos_chunked_02.zip", "data/N1cdUjctpG8.mp4")
    with zipfile.ZipFile(root / "videomme/subtitle.zip", "w") as archive:
        archive.writestr(
            "subtitle/fFjv93ACGo8.srt",
            "1\n00:00:00,500 --> 00:00:02,000\nHello there.\n\n"
            "2\n00:00:05,000 --> 00:00:06,000\nGoodbye.\n",
        )


def longvideobench_rows() -> list[dict[str, Any]]:
    rows = [
        ("86CxyhFV9MI", "86CxyhFV9MI_0", 600, "SSS", 4, 1),
        ("86CxyhFV9MI", "86CxyhFV9MI_1", 600, "T3E", 5, 4),
        ("@some-user-7263", "@some-user-7263_0", 15, "S2E", 3, 0),
    ]
    return [
        {
            "video_id": video,
            "video_path": f"{video}.mp4",
            "subtitle_path": f"{video}_en.json",
            "id": name,
            "duration_group": duration,
            "question_category": category,
            "topic_category": "NP-News",
            "duration": 190.16,
            "starting_timestamp_for_subtitles": 0,
            "question": "What changes?",
            "candidates": [f"text {i}" for i in range(options)],
            "correct_choice": right,
        }
        for video, name, duration, category, options, right in rows
    ]


def longvideobench(root: Path) -> None:
    folder = root / "longvideobench"
    write_json(folder / "lvb_val.json", longvideobench_rows())
    touch(folder / "videos/86CxyhFV9MI.mp4", folder / "videos/@some-user-7263.mp4")


def longvideobench_parquet(root: Path) -> None:
    rows = []
    for row in longvideobench_rows():
        candidates = row.pop("candidates")
        padded = [*candidates, *["N/A"] * (5 - len(candidates))]
        rows.append({**row, **{f"option{i}": text for i, text in enumerate(padded)}})
    folder = root / "longvideobench"
    write_parquet(folder / "validation-00000-of-00001.parquet", rows)
    touch(folder / "videos/86CxyhFV9MI.mp4", folder / "videos/@some-user-7263.mp4")


def longvideobench_parts(folder: Path) -> None:
    """The videos as they are published: a tar archive in parts."""
    whole = folder / "whole.tar"
    with tarfile.open(whole, "w") as archive:
        for path in sorted((folder / "videos").iterdir()):
            archive.add(path, f"videos/{path.name}")
            path.unlink()
    content = whole.read_bytes()
    whole.unlink()
    half = len(content) // 2
    (folder / "videos.tar.part.aa").write_bytes(content[:half])
    (folder / "videos.tar.part.ab").write_bytes(content[half:])


def mlvu(root: Path) -> None:
    for name in MLVU_FILES:
        rows = [
            {
                "video": "movie101_66.mp4",
                "duration": 480.05,
                "question": question,
                "candidates": ["Yellow", "Red", "Green", "Blue"],
                "answer": answer,
                "question_type": name[2:],
            }
            for question, answer in (("What colour?", "Red"), ("Which one?", "Blue"))
        ]
        if name == "7_topic_reasoning":
            blank = {"question": "", "candidates": ["", "", "", ""], "answer": ""}
            rows.append({**rows[0], **blank, "video": "movie101_89.mp4"})
        write_json(root / f"mlvu/json/{name}.json", rows)
        touch(root / f"mlvu/video/{name}/movie101_66.mp4")


def nextqa_rows() -> list[dict[str, Any]]:
    return [
        {
            "video": video,
            "frame_count": 369,
            "width": 640,
            "height": 480,
            "question": "why did the boy clap his hands",
            "answer": place,
            "qid": place,
            "type": kind,
            **{f"a{i}": f"reason {i}" for i in range(5)},
        }
        for video, kinds in ((4010069381, ("CW", "TP")), (3238737531, ("TN", "DO")))
        for place, kind in enumerate(kinds)
    ]


def nextqa(root: Path) -> None:
    write_parquet(root / "nextqa/MC/test-00000-of-00001.parquet", nextqa_rows())
    write_zip(root / "nextqa/videos.zip", "NExTVideo/4010069381.mp4", "NExTVideo/3238737531.mp4")


def nextqa_csv(root: Path) -> None:
    """The official repository's file; the videos in its folders of folders."""
    rows = nextqa_rows()
    (root / "nextqa").mkdir(parents=True)
    with (root / "nextqa/test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    touch(root / "nextqa/NExTVideo/1164/3238737531.mp4", root / "nextqa/NExTVideo/4010069381.mp4")


EGO_IDS = ("0074f737-11cb-497d", "00aa7247-9a4b-4667", "001934bb-81bd-4cd8")


def egoschema(root: Path) -> None:
    """The official repository's files."""
    folder = root / "egoschema"
    rows = [
        {
            "q_uid": name,
            "google_drive_id": "1WHgC",
            "question": "What is the primary objective of c?",
            **{f"option {i}": f"C does {i}." for i in range(5)},
        }
        for name in EGO_IDS
    ]
    write_json(folder / "questions.json", rows)
    write_json(folder / "subset_answers.json", {EGO_IDS[0]: 3, EGO_IDS[2]: 0})
    touch(*(folder / f"videos/{name}.mp4" for name in EGO_IDS))


def egoschema_parquet(root: Path) -> None:
    """The copy on the hub."""
    rows = [
        {
            "question_idx": str(place),
            "question": "What is the primary objective of c?",
            "video_idx": name,
            "option": [f"{'ABCDE'[i]}. C does {i}." for i in range(5)],
            "answer": None,
        }
        for place, name in enumerate(EGO_IDS)
    ]
    folder = root / "egoschema"
    write_parquet(folder / "MC/test-00000-of-00001.parquet", rows)
    labelled = [{**rows[0], "answer": "3"}, {**rows[2], "answer": "0"}]
    write_parquet(folder / "Subset/test-00000-of-00001.parquet", labelled)
    write_zip(folder / "videos_chunked_01.zip", *(f"videos/{name}.mp4" for name in EGO_IDS))
