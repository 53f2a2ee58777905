"""Read subtitle files (SubRip .srt and WebVTT .vtt) and pick what is said at sampled frames."""

import codecs
import html
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm.errors import VideoError
from sttm.video.container import check_file

SUFFIXES = (".srt", ".vtt")

_TIME = r"(?:(\d{1,9}):)?([0-5]?\d):([0-5]?\d)[.,](\d{1,3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")  # <i>, <00:01.000>, {\an8}
_NUMBER = re.compile(r"\s*\d+\s*")
_BROKEN = re.compile(r"(?=.*\d:\d\d[:.,;]\d)[\d\s:.,;]*-->[\d\s:.,;]*")  # times gone wrong
_NOT_TEXT = re.compile(r"\s*\d+\s*|.*(?:-->|\d:\d\d[:.,]\d\d).*")  # a number, times gone wrong
_HUGE = re.compile(r"&#\d{100,};?")  # no character, and more digits than Python reads
_COMMENT = re.compile(r"(NOTE|STYLE|REGION)(\s|$)")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*")


@dataclass(frozen=True)
class Subtitle:
    """One line of dialogue.

    Attributes:
        start: seconds from the start of the video.
        end: seconds, at least ``start``; the text shows in [start, end).
        text: without styling; lines are separated by a newline.
    """

    start: float
    end: float
    text: str


def find_subtitles(video_path: str | os.PathLike[str]) -> Path | None:
    """Look for the subtitle file of a video in its directory.

    ``clip.srt`` is taken before ``clip.vtt``, those before ``clip.en.srt`` and ``clip.en.vtt``,
    and English before other languages (``clip.de.srt``, ``clip.pt-BR.vtt``) in their order.

    Args:
        video_path: the video; it need not exist.

    Returns:
        the subtitle file, or None.
    """
    video = Path(video_path)
    if not video.parent.is_dir():
        return None
    ranked = []
    for entry in video.parent.iterdir():
        suffix, language = entry.suffix.lower(), entry.stem[len(video.stem) + 1 :]
        if suffix not in SUFFIXES or not entry.is_file():
            continue
        named = entry.stem == f"{video.stem}.{language}" and _LANGUAGE.fullmatch(language)
        if entry.stem == video.stem or named:
            ranked.append((language != "", language != "en", language, suffix, entry))
    return min(ranked)[-1] if ranked else None


def read_subtitles(
    path: str | os.PathLike[str], *, encoding: str | None = None
) -> tuple[Subtitle, ...]:
    """Read an .srt or .vtt file; what it holds is told by its content, not by its name.

    Styling is removed: tags, cue settings, positions, WebVTT's NOTE, STYLE and REGION blocks.
    Cues without text are left out. As players do it, a line of times begins a cue, whether an
    empty line or a number stands in front of it or not, and text after an empty line belongs to
    the cue before it.

    Args:
        path: the subtitle file.
        encoding: of the file. By default a byte order mark decides, and UTF-8 without one; there
            is no guess, since a wrong one would put nonsense into a prompt.

    Returns:
        the cues in the order of the file.

    Raises:
        VideoError: no such file, empty, not text in that encoding, or a malformed cue, with its
            line number.

    Source: https://www.w3.org/TR/webvtt1/; SubRip has no standard. Differs: a comma or a dot
        before the milliseconds, and hours left out, are accepted in both.
    """
    file = check_file(path, "subtitle")
    lines = re.split(r"\r\n|\r|\n", _decode(file, encoding))
    is_vtt = re.match(r"WEBVTT(\s|$)", lines[0]) is not None
    read = (
        Subtitle(cue.start, cue.end, _plain(cue.lines, is_vtt))
        for cue in _read_cues(file, lines, is_vtt)
    )
    return tuple(subtitle for subtitle in read if subtitle.text)


def subtitles_at(
    subtitles: Sequence[Subtitle], timestamps: Sequence[float], *, unique: bool = True
) -> list[str]:
    """Return the text that shows at each sampled frame.

    Args:
        subtitles: what :func:`read_subtitles` gave.
        timestamps: seconds, as in :attr:`sttm.video.Video.timestamps`.
        unique: leave out silent frames and texts equal to the one before, as the Video-MME
            prompt with subtitles does; otherwise one text per timestamp, "" for silence.

    Returns:
        texts on one line each; cues that overlap are joined by a space.
    """
    texts = []
    for moment in timestamps:
        shown = [cue.text for cue in subtitles if cue.start <= moment < cue.end]
        texts.append(" ".join(" ".join(shown).split()))
    if not unique:
        return texts
    spoken = [text for text in texts if text]
    return [text for place, text in enumerate(spoken) if place == 0 or text != spoken[place - 1]]


def _decode(file: Path, encoding: str | None) -> str:
    data = file.read_bytes()
    if encoding is None:
        marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
        marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
        found = (name for mark, name in marks.items() if data.startswith(mark))
        encoding = next(found, "utf-8-sig")
    try:
        text = data.decode(encoding)
    except (ValueError, LookupError) as error:
        raise VideoError(
            f"{file}: cannot be read as {encoding} ({error}). Save it as UTF-8, or name its "
            "encoding, for example encoding='cp1252' or 'gb18030'."
        ) from error
    return text.removeprefix("\ufeff")


@dataclass(frozen=True)
class _Cue:
    start: float
    end: float
    lines: list[str]


def _blocks(lines: Sequence[str], is_vtt: bool) -> Iterator[tuple[int, list[str]]]:
    """Split at empty lines; yields the number of each block's first line, counted from 1."""
    block: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        # a line of spaces ends an SRT cue, but YouTube begins its cues with one
        is_text = line if is_vtt or (block and _is_timing(block[-1])) else line.strip()
        if is_text:
            block.append(line)
        elif block:
            first = number - len(block)
            if is_vtt and first == 1:  # the header, perhaps with cues right behind it
                end = next((i for i, text in enumerate(block) if _is_timing(text)), len(block))
                end -= end < len(block) and _NUMBER.fullmatch(block[end - 1]) is not None
                first, block = first + end, block[end:]
            if block and not (is_vtt and _COMMENT.match(block[0])):
                yield first, block
            block = []


def _read_cues(file: Path, lines: Sequence[str], is_vtt: bool) -> list[_Cue]:
    cues: list[_Cue] = []
    numbered = False
    for first, block in _blocks(lines, is_vtt):
        starts = [place for place, line in enumerate(block) if _is_timing(line)]
        end = starts[0] if starts else len(block)
        if starts and end and (end == 1 or _NUMBER.fullmatch(block[end - 1])):
            end -= 1  # an identifier may stand first
            numbered = numbered or (not cues and _NUMBER.fullmatch(block[end]) is not None)
        elif end == 0 and numbered and cues[-1].lines and _NUMBER.fullmatch(cues[-1].lines[-1]):
            cues[-1].lines.pop()  # of this cue: an empty line came between
        before = block[:end]
        if before and (not cues or any(_NOT_TEXT.fullmatch(line) for line in before)):
            raise _malformed(file, first, before)
        if before:
            cues[-1].lines.extend(before)
        for start, following in zip(starts, [*starts[1:], None]):
            cue = _read_cue(file, first + start, block[start:following])
            if following and numbered and cue.lines and _NUMBER.fullmatch(cue.lines[-1]):
                cue.lines.pop()  # of the following cue
            cues.append(cue)
    return cues


def _read_cue(file: Path, number: int, block: list[str]) -> _Cue:
    timing = _TIMING.fullmatch(block[0])
    assert timing is not None
    start, end = _seconds(*timing.groups()[:4]), _seconds(*timing.groups()[4:])
    if end < start:
        raise VideoError(
            f"{file}, line {number}: got a cue from {start} s to {end} s, expected the "
            "end after the start. Mend the cue or remove it."
        )
    for place, line in enumerate(block[1:], start=1):
        if _BROKEN.fullmatch(line):
            raise _malformed(file, number + place, [line])
    return _Cue(start, end, block[1:])


def _is_timing(line: str) -> bool:
    return _TIMING.fullmatch(line) is not None


def _malformed(file: Path, number: int, lines: list[str]) -> VideoError:
    """Build the error for lines that should hold times, the first of them being ``number``."""
    fallback = min(1, len(lines) - 1)
    place = next((i for i, line in enumerate(lines) if "-->" in line), fallback)
    return VideoError(
        f"{file}, line {number + place}: got {lines[place][:60]!r}, expected times such as "
        "'00:00:01,000 --> 00:00:02,500'. Mend the cue or remove it."
    )


def _plain(lines: Sequence[str], is_vtt: bool) -> str:
    text = _TAG.sub("", "\n".join(lines))
    text = html.unescape(_HUGE.sub("", text)) if is_vtt else text
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return (whole * 1000 + int(fraction.ljust(3, "0"))) / 1000
