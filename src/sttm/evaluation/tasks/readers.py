"""One reader per data set: from a row of its published files to a `Draft`."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from sttm.errors import unknown_name
from sttm.evaluation.tasks.items import LETTERS, duration_group
from sttm.evaluation.tasks.loader import Draft, Reader, ReaderState
from sttm.evaluation.tasks.spans import read_span
from sttm.evaluation.tasks.tables import DataError, Row
from sttm.video.files import VIDEO_SUFFIXES

NOT_AVAILABLE = "N/A"  # pads the options of LongVideoBench's parquet files
# Why rows of published files stay out.
BLANK, NOT_PUBLISHED = "blank", "no published answer"
NO_OPTION = "the answer is none of the options"
CUSTOM_FIELDS = ("video", "question", "options", "answer", "id", "groups")


def vnbench(row: Row, state: ReaderState) -> Draft:
    """VNBench: four rows per video, the same question with its options in another order."""
    video, options = row.text("video"), row.texts("options")
    sample, attempt = _stem(video), row.text("try")
    return Draft(
        question_id=f"{sample}_try{attempt}",
        video_id=sample,
        video=video,
        question=row.text("question", exact=True),
        options=options,
        answer=_vnbench_answer(row, options),
        groups=_type_and_duration(row, "type", "length"),
        timed=True,  # some lengths in the file are not the videos'
        extra={"try": attempt},
    )


def videomme(row: Row, state: ReaderState) -> Draft:
    """Video-MME: three questions per video, options with their letters."""
    video = row.text("videoID")
    names = ("duration", "task_type", "domain", "sub_category")
    return Draft(
        question_id=row.text("question_id"),
        video_id=video,
        video=video,
        question=row.text("question", exact=True),
        options=strip_letters(row.texts("options")),
        answer=row.text("answer"),
        groups={name: row.text(name) for name in names},
    )


def longvideobench(row: Row, state: ReaderState) -> Draft:
    """LongVideoBench: options as a list (JSON) or padded columns (parquet), the answer an index."""
    whole, question = row.text("video_id"), row.text("id")
    # The authors of STTM call "@user-123" just "123", in the ids of questions too.
    cut = "@" in whole
    if "candidates" in row.values:
        options = row.texts("candidates")
    else:
        names = [f"option{i}" for i in range(5)]
        last = max((i for i, name in enumerate(names) if not _padding(row, name)), default=-1)
        # In front of the last one it is a text like others: letters count all of them.
        options = tuple(row.cell(name) for name in names[: last + 1])
    return Draft(
        question_id=question.rpartition("-")[2] if cut else question,
        video_id=whole.rpartition("-")[2] if cut else whole,
        video=row.maybe("video_path") or whole,
        question=row.text("question", exact=True),
        options=options,
        answer=letter_at(row, "correct_choice", options),
        groups={
            "duration": row.text("duration_group"),
            "task_type": row.text("question_category"),
        },
    )


def mlvu(row: Row, state: ReaderState) -> Draft | str:
    """MLVU: a file per task, the answer as text.

    In the published files a row is blank, and two have answers that are none of their options. Some
    options are blank, and some come twice: the first one is the answer.
    """
    if row.maybe("question") is None:
        return BLANK
    folder = row.file.stem
    video = row.text("video")
    name = f"{folder}-{_stem(video)}"
    options = row.texts("candidates")
    answer = row.cell("answer")
    groups = _type_and_duration(row, "question_type", "duration")
    number = state.number(name) + 1  # rows that stay out for their answer are counted, too
    place = _place(answer, options)
    if place is None:
        return NO_OPTION
    return Draft(
        question_id=f"{name}-{number}",
        video_id=name,
        video=f"{folder}/{video}",
        # Names come twice, in the folders of different tasks.
        video_parts=2,
        question=row.text("question", exact=True),
        options=options,
        answer=LETTERS[place],
        groups=groups,
    )


def nextqa(row: Row, state: ReaderState) -> Draft:
    """NExT-QA, multiple choice: options in columns a0 to a4, the answer an index."""
    video = row.text("video")
    options = tuple(row.cell(f"a{i}") for i in range(5))
    return Draft(
        question_id=f"{video}_{row.text('qid')}",
        video_id=video,
        video=video,
        question=row.text("question", exact=True),
        options=options,
        answer=letter_at(row, "answer", options),
        groups={"task_type": row.text("type")},
        timed=True,
    )


def egoschema(row: Row, state: ReaderState) -> Draft:
    """EgoSchema: answers of 500 of the questions are published, in a file of their own."""
    name = row.maybe("q_uid") or row.text("video_idx")
    options = (
        strip_letters(row.texts("option"))
        if "option" in row.values
        else tuple(row.cell(f"option {i}") for i in range(5))
    )
    # Some copies hide answers with null, others with an empty text.
    own = row.maybe("answer") or state.answers.get(name)
    known = Row({"answer": own}, row.file, row.number)
    answer = letter_at(known, "answer", options) if known.maybe("answer") else None
    return Draft(
        question_id=name,
        video_id=name,
        video=name,
        question=row.text("question", exact=True),
        options=options,
        answer=answer,
    )


def egoschema_subset(row: Row, state: ReaderState) -> Draft | str:
    """EgoSchema, only the questions whose answers are published."""
    found = egoschema(row, state)
    return found if found.answer is not None else NOT_PUBLISHED


def custom(row: Row, state: ReaderState) -> Draft:
    """Any JSONL of video, question, options, answer, and if wanted id and groups.

    Stricter than the others: nobody else has looked at these files.
    """
    for field in row.values:
        if field not in CUSTOM_FIELDS and not str(field).startswith("_"):
            error = unknown_name("field", str(field)[:60], CUSTOM_FIELDS)
            raise DataError(f"{error} One that begins with '_' is left out")
    path = _below(row.folder, row.text("video"))
    name = "-".join((*path.parts[:-1], _stem(path.name)))
    options = _custom_options(row)
    groups = row.values.get("groups") or {}
    if not isinstance(groups, Mapping):
        raise DataError(f"got groups {groups!r}, expected an object of texts")
    number = state.number(name)
    return Draft(
        question_id=row.maybe("id") or f"{name}-{number}",
        video_id=name,
        video=str(path),
        video_parts=len(path.parts),
        question=row.text("question", exact=True),
        options=options,
        answer=_custom_answer(row, options),
        groups={str(key): str(value) for key, value in groups.items()},
    )


def custom_grounding(row: Row, state: ReaderState) -> Draft:
    """Read open questions as `custom` does, whose answers are spans of seconds."""
    draft = custom(row, state)
    if draft.options:
        raise DataError("got options, expected a question whose answer is a span of seconds")
    if read_span(draft.answer or "") is None:
        raise DataError(f"got the answer {draft.answer!r}, expected seconds such as '12.5 to 17'")
    return draft


READERS: dict[str, Reader] = {
    "custom": custom,
    "custom-grounding": custom_grounding,
    "egoschema": egoschema,
    "egoschema-subset": egoschema_subset,
    "longvideobench": longvideobench,
    "mlvu": mlvu,
    "nextqa": nextqa,
    "videomme": videomme,
    "vnbench": vnbench,
}


def _type_and_duration(row: Row, kind: str, seconds: str) -> dict[str, str]:
    """Read two groups from the fields of these names; the length may be missing."""
    groups = {"task_type": row.text(kind)}
    length = row.number_of(seconds)
    return groups if length is None else {**groups, "duration": duration_group(length)}


def strip_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Take "A. " off the first option, "B. " off the second..., if all have theirs."""
    found = [
        re.match(rf"\(?{letter}[.):] ?(.*)", option, re.DOTALL)
        for letter, option in zip(LETTERS, options)
    ]
    texts = [match[1] for match in found if match]
    stripped = len(texts) == len(options) and any(text.strip() for text in texts)
    return tuple(texts) if stripped else tuple(options)


def letter_at(row: Row, name: str, options: Sequence[str]) -> str:
    """Turn the index of an option, from 0, into its letter.

    Raises:
        DataError: it is none.
    """
    index = row.number_of(name)
    if index is None or not index.is_integer() or not 0 <= index < len(options):
        raise DataError(
            f"got the answer {row.values.get(name)!r}, expected a number from 0 to "
            f"{len(options) - 1}",
            "answer",
        )
    return LETTERS[int(index)]


def _vnbench_answer(row: Row, options: Sequence[str]) -> str:
    """The published answer is a text, ``gt_option`` its letter; they have to agree."""
    text, letter = row.maybe("gt"), row.maybe("gt_option") or ""
    letters, texts = LETTERS[: len(options)], _trimmed(options)
    if len(letter) == 1 and letter in letters:
        if text in texts and text != texts[letters.index(letter)]:
            raise DataError(f"got the answer {text!r}, but the letter {letter!r}", "answer")
        return letter
    if text in texts:
        return letters[texts.index(text)]
    raise DataError(f"got the answer {text!r}, expected one of {tuple(options)}", "answer")


def _below(folder: Path, video: str) -> PurePosixPath:
    """Name a file as seen from a folder, in one way however it was named; it need not be there."""
    root = folder.absolute()
    path = Path(os.path.normpath(root / video))
    if not path.is_relative_to(root):  # links inside the folder are names like others
        root, path = root.resolve(), path.resolve()
    return PurePosixPath(Path(os.path.relpath(path, root)).as_posix())


def _custom_options(row: Row) -> tuple[str, ...]:
    if row.values.get("options") in (None, ""):
        return ()
    if not row.values["options"]:
        raise DataError("got no options in 'options', expected two or more, or no such field")
    options = row.texts("options")
    if not all(option.strip() for option in options):
        raise DataError(f"got the options {options!r}, expected texts that are not blank")
    twice = [text for text, count in Counter(_trimmed(options)).items() if count > 1]
    if twice:
        raise DataError(f"got the option {twice[0]!r} twice, expected different ones")
    return options


def _custom_answer(row: Row, options: Sequence[str]) -> str | None:
    """Read a letter, a letter in brackets, or a text; it must stand for one option."""
    answer = row.maybe("answer")
    if answer is None or not options:
        return answer
    choices = dict(zip(LETTERS, _trimmed(options)))
    meant = [letter for letter, text in choices.items() if answer in (letter, text)]
    meant = meant or [letter for letter in choices if answer == f"({letter})"]
    if len(meant) == 1:
        return meant[0]
    if meant:
        ways = " or ".join(f"'({letter})' for {choices[letter]!r}" for letter in meant)
        raise DataError(
            f"got the answer {answer!r}, a letter and a text, expected {ways}", "answer"
        )
    raise DataError(
        f"got the answer {answer!r}, expected a letter of {''.join(choices)}, or the text of one "
        "option",
        "answer",
    )


def _padding(row: Row, name: str) -> bool:
    """Whether a column holds no option: a blank text is one."""
    text = row.maybe(name)
    gap = text is None and not isinstance(row.values.get(name), str)
    return gap or text == NOT_AVAILABLE


def _place(answer: str, options: Sequence[str]) -> int | None:
    """Find the first option that is an answer, to the letter or else but for the blanks around."""
    if answer in options:
        return options.index(answer)
    texts = _trimmed(options)
    return texts.index(answer.strip()) if answer.strip() in texts else None


def _trimmed(options: Sequence[str]) -> list[str]:
    return [option.strip() for option in options]


def _stem(video: str) -> str:
    path = PurePosixPath(video)
    return path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
