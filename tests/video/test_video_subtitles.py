from pathlib import Path

import pytest

from sttm.errors import VideoError
from sttm.video import Subtitle, find_subtitles, read_subtitles, subtitles_at

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello, <i>world</i>!

2
01:02:03.004 --> 01:02:04,05 X1:10 X2:20
{\\an8}<font color="#fff">Two
lines</font> where 1 < 2

3
00:00:05,000 --> 00:00:06,000

"""

VTT = """WEBVTT - with a title
Kind: captions

NOTE a comment
over two lines

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Anna>Hello, <c.loud>world</c>!</v>

00:00:03.000 --> 00:00:04.000
Salt &amp; <00:00:03.500>pepper &lt;3

NOTE
the end"""


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_srt(tmp_path: Path) -> None:
    assert read_subtitles(write(tmp_path / "a.srt", SRT)) == (
        Subtitle(1.0, 2.5, "Hello, world!"),
        Subtitle(3723.004, 3724.05, "Two\nlines where 1 < 2"),
    )


def test_vtt(tmp_path: Path) -> None:
    assert read_subtitles(write(tmp_path / "a.vtt", VTT)) == (
        Subtitle(1.0, 2.5, "Hello, world!"),
        Subtitle(3.0, 4.0, "Salt & pepper <3"),
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", [SRT, VTT])
def test_marks_and_line_ends(tmp_path: Path, encoding: str, newline: str, text: str) -> None:
    plain = read_subtitles(write(tmp_path / "plain.srt", text))
    changed = write(tmp_path / "a.srt", text.replace("\n", newline), encoding)
    assert read_subtitles(changed) == plain


def test_youtube_cues_begin_with_a_line_of_spaces(tmp_path: Path) -> None:
    text = (
        "1\n00:00:00,000 --> 00:00:01,000\n \nspoken words\n\n2\n00:00:02,000 --> 00:00:03,000\nx"
    )
    cues = (Subtitle(0.0, 1.0, "spoken words"), Subtitle(2.0, 3.0, "x"))
    assert read_subtitles(write(tmp_path / "a.srt", text)) == cues
    vtt = "WEBVTT\n\n" + text.replace(",", ".")
    assert read_subtitles(write(tmp_path / "a.vtt", vtt)) == cues


def test_lines_of_spaces_separate_srt_cues(tmp_path: Path) -> None:
    text = "1\n00:01,000 --> 00:02,000\none\n  \n2\n00:03,000 --> 00:04,000\ntwo\n"
    assert [cue.text for cue in read_subtitles(write(tmp_path / "a.srt", text))] == ["one", "two"]


def test_text_after_an_empty_line_stays_with_its_cue(tmp_path: Path) -> None:
    text = "1\n00:01,000 --> 00:02,000\none\n\nmore at 8:30\n\n2\n00:03,000 --> 00:04,000\ntwo\n"
    cues = read_subtitles(write(tmp_path / "a.srt", text))
    assert [cue.text for cue in cues] == ["one\nmore at 8:30", "two"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1\n00:00:01,000 -> 00:00:02,000\nx\n", 2),
        ("hello\n", 1),
        ("1\n00:00:01,000 --> \nx\n", 2),
        ("00:00:01,000 --> 00:61:02,000\nx\n", 1),
        ("1\n00:00:01,000 --> 00:00:02,000\nx\n\n2\n00:00:03;000 --> 00:00:04,000\ny\n", 6),
        ("1\n00:00:01,000 --> 00:00:02,000\nx\n\n2\n", 5),
        ("WEBVTT\n\nNOTE x\n\nid\nother\n00:03.000 --> 00:04.000\ny\n", 6),
    ],
)
def test_malformed_cue_names_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(VideoError, match=rf"a\.srt, line {line}: got .* expected times"):
        read_subtitles(write(tmp_path / "a.srt", text))


def test_cue_that_ends_before_it_starts(tmp_path: Path) -> None:
    text = "1\n00:00:02,000 --> 00:00:01,000\nx\n"
    with pytest.raises(VideoError, match=r"line 2: got a cue from 2\.0 s to 1\.0 s"):
        read_subtitles(write(tmp_path / "a.srt", text))


def test_other_encodings_are_named_not_guessed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.srt", "1\n00:01,000 --> 00:02,000\ncafé\n", "cp1252")
    with pytest.raises(VideoError, match=r"cannot be read as utf-8.*encoding='cp1252'"):
        read_subtitles(file)
    assert read_subtitles(file, encoding="cp1252")[0].text == "café"
    with pytest.raises(VideoError, match="cannot be read as klingon"):
        read_subtitles(file, encoding="klingon")


def test_missing_and_empty_files(tmp_path: Path) -> None:
    write(tmp_path / "clip.srt", "")
    with pytest.raises(VideoError, match="is empty"):
        read_subtitles(tmp_path / "clip.srt")
    with pytest.raises(VideoError, match=r"no such subtitle file\. Did you mean 'clip.srt'"):
        read_subtitles(tmp_path / "clip.sr")
    assert read_subtitles(write(tmp_path / "head.vtt", "WEBVTT")) == ()


def test_find_takes_the_plainest_name(tmp_path: Path) -> None:
    video = tmp_path / "my.clip.mp4"
    assert find_subtitles(video) is None
    for name in ("other.srt", "my.srt", "my.clip.part two.srt", "my.clip2.srt", "my.clip.txt"):
        write(tmp_path / name, "x")
    assert find_subtitles(video) is None
    for name in ("my.clip.pt-BR.vtt", "my.clip.de.srt", "my.clip.en.vtt", "my.clip.en.srt"):
        write(tmp_path / name, "x")
    for name in ("my.clip.en.srt", "my.clip.en.vtt", "my.clip.de.srt", "my.clip.pt-BR.vtt"):
        assert find_subtitles(video) == tmp_path / name
        (tmp_path / name).unlink()
    write(tmp_path / "my.clip.VTT", "x")
    assert find_subtitles(str(video)) == tmp_path / "my.clip.VTT"
    write(tmp_path / "my.clip.srt", "x")
    assert find_subtitles(video) == tmp_path / "my.clip.srt"
    assert find_subtitles(tmp_path / "nowhere" / "a.mp4") is None


def test_texts_at_sampled_frames() -> None:
    cues = (
        Subtitle(0.0, 1.0, "one"),
        Subtitle(1.0, 3.5, "two\nlines"),
        Subtitle(3.0, 3.2, "over"),
        Subtitle(9.0, 10.0, "two lines"),
    )
    times = (0.0, 1.0, 2.0, 3.0, 5.0, 9.5, 10.0)
    each = ["one", "two lines", "two lines", "two lines over", "", "two lines", ""]
    assert subtitles_at(cues, times, unique=False) == each
    assert subtitles_at(cues, times) == ["one", "two lines", "two lines over", "two lines"]
    assert subtitles_at(cues, (1.0, 5.0, 9.0)) == ["two lines"]  # silence does not part equals
    assert subtitles_at((), times) == []


FIRST, SECOND = "00:00:01,000 --> 00:00:02,000", "00:00:03,000 --> 00:00:04,000"
BOTH = (Subtitle(1.0, 2.0, "hi"), Subtitle(3.0, 4.0, "yo"))


@pytest.mark.parametrize(
    "text",
    [
        f"1\n{FIRST}\nhi\n2\n{SECOND}\nyo\n",
        f"{FIRST}\nhi\n{SECOND}\nyo\n",
        f"1\n{FIRST}\nhi\n2\n\n{SECOND}\nyo\n",
        f"1\n{FIRST}\nhi\n\n2\n{SECOND}\nyo",
        f"1\n{FIRST}\nhi\n{SECOND}\nyo",
        f"WEBVTT\n{FIRST}\nhi\n{SECOND}\nyo",
        f"WEBVTT\nKind: captions\n1\n{FIRST}\nhi\n2\n{SECOND}\nyo",
    ],
)
def test_a_line_of_times_begins_a_cue(tmp_path: Path, text: str) -> None:
    assert read_subtitles(write(tmp_path / "a.srt", text)) == BOTH


def test_numbers_that_are_spoken_stay(tmp_path: Path) -> None:
    plain = f"{FIRST}\n7\n{SECOND}\n8\n"  # cues without numbers
    assert [cue.text for cue in read_subtitles(write(tmp_path / "a.srt", plain))] == ["7", "8"]
    numbered = f"1\n{FIRST}\n7\n2\n{SECOND}\n8\n"
    assert [cue.text for cue in read_subtitles(write(tmp_path / "a.srt", numbered))] == ["7", "8"]
    late = f"1\n{FIRST}\nhi\n\nand more\n2\n{SECOND}\nyo\n"  # with an empty line in its text
    cues = read_subtitles(write(tmp_path / "a.srt", late))
    assert [cue.text for cue in cues] == ["hi\nand more", "yo"]


@pytest.mark.parametrize(
    "words", ["a --> b", "8:30 --> 9:15", "-->", "--> 3", "x 00:00:01,000 -->"]
)
def test_an_arrow_in_words_stays_text(tmp_path: Path, words: str) -> None:
    file = write(tmp_path / "a.srt", f"1\n{FIRST}\n{words}\n")
    assert read_subtitles(file) == (Subtitle(1.0, 2.0, words),)


@pytest.mark.parametrize("times", ["00:00:03;000 --> 00:00:04,000", "00:00:03 --> 00:00:04"])
def test_times_gone_wrong_are_no_text(tmp_path: Path, times: str) -> None:
    file = write(tmp_path / "a.srt", f"1\n{FIRST}\nhi\n2\n{times}\nyo\n")
    with pytest.raises(VideoError, match=r"line 5: got .* expected times"):
        read_subtitles(file)


def test_numbers_too_long_to_read(tmp_path: Path) -> None:
    digits = "9" * 5000
    with pytest.raises(VideoError, match="line 1"):
        read_subtitles(write(tmp_path / "a.srt", f"{digits}:00:01,000 --> 00:00:02,000\nx\n"))
    text = f"WEBVTT\n\n{FIRST}\nhi &#{digits}; &#33;\n"
    assert read_subtitles(write(tmp_path / "a.vtt", text))[0].text == "hi  !"


def test_utf32_is_read_and_strange_encodings_are_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.srt", SRT, "utf-32")
    assert read_subtitles(file) == read_subtitles(write(tmp_path / "b.srt", SRT))
    for encoding in ("base64", "a\0b", "idna"):
        with pytest.raises(VideoError, match="cannot be read as"):
            read_subtitles(file, encoding=encoding)
