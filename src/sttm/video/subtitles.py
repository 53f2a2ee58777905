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

_TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]?\d)[.,](\d{1,3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")  # <i>, <00:01.000>, {\an8}
_NOT_TEXT = re.compile(r"\s*\d+\s*|.*(?:-->|\d:\d\d[:.,]\d\d).*")  # a number, times gone wrong
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

    Returns: the subtitle file, or None.
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
    Cues without text are left out. Text after an empty line belongs to the cue before it, as
    players do it.

    Args:
        path: the subtitle file.
        encoding: of the file. By default a byte order mark decides, and UTF-8 without one; there
            is no guess, since a wrong one would put nonsense into a prompt.

    Returns: the cues in the order of the file.
    Raises: VideoError: no such file, empty, not text in that encoding, or a malformed cue, with
        its line number.
    Source: https://www.w3.org/TR/webvtt1/; SubRip has no standard. Differs: a comma or a dot
        before the milliseconds, and hours left out, are accepted in both.
    """
    file = check_file(path, "subtitle")
    lines = re.split(r"\r\n|\r|\n", _decode(file, encoding))
    is_vtt = re.match(r"WEBVTT(\s|$)", lines[0]) is not None
    cues: list[_Cue] = []
    for number, block in _blocks(lines, is_vtt):
        if cues and not any(_NOT_TEXT.fullmatch(line) for line in block):
            cues[-1].lines.extend(block)
        else:
            cues.append(_read_cue(file, number, block))
    read = (Subtitle(cue.start, cue.end, _plain(cue.lines, is_vtt)) for cue in cues)
    return tuple(subtitle for subtitle in read if subtitle.text)


def subtitles_at(
    subtitles: Sequence[Subtitle], timestamps: Sequence[float], *, unique: bool = True
) -> list[str]:
    """Give the text that shows at each sampled frame.

    Args:
        subtitles: what :func:`read_subtitles` gave.
        timestamps: seconds, as in :attr:`sttm.video.Video.timestamps`.
        unique: leave out silent frames and texts equal to the one before, as the Video-MME
            prompt with subtitles does; otherwise one text per timestamp, "" for silence.

    Returns: texts on one line each; cues that overlap are joined by a space.
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
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
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
        is_text = line if is_vtt or (block and "-->" in block[-1]) else line.strip()
        if is_text:
            block.append(line)
        elif block:
            first = number - len(block)
            if not (is_vtt and (first == 1 or _COMMENT.match(block[0]))):
                yield first, block
            block = []


def _read_cue(file: Path, number: int, block: list[str]) -> _Cue:
    place = 0 if "-->" in block[0] or len(block) == 1 else 1  # an identifier may stand first
    timing = _TIMING.fullmatch(block[place])
    if timing is None:
        raise VideoError(
            f"{file}, line {number + place}: got {block[place][:60]!r}, expected times such as "
            "'00:00:01,000 --> 00:00:02,500'. Mend the cue or remove it."
        )
    start, end = _seconds(*timing.groups()[:4]), _seconds(*timing.groups()[4:])
    if end < start:
        raise VideoError(
            f"{file}, line {number + place}: got a cue from {start} s to {end} s, expected the "
            "end after the start. Mend the cue or remove it."
        )
    return _Cue(start, end, block[place + 1 :])


def _plain(lines: Sequence[str], is_vtt: bool) -> str:
    text = _TAG.sub("", "\n".join(lines))
    text = html.unescape(text) if is_vtt else text
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return whole + int(fraction.ljust(3, "0")) / 1000
