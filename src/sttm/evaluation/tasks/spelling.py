"""One spelling for what models write: one alphabet, no thoughts, no markdown; and its words.

Everything here takes time in proportion to the text: runs are bounded, nothing is searched twice.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

JOINT = "\u2009"  # between a Latin letter and a character of a script without blanks
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_IS_CJK = re.compile(f"[{_CJK}]")
_JOINTS = re.compile(f"(?<=[{_CJK}])(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?=[{_CJK}])")
_ALIKE = {
    **dict.fromkeys("‘’‚‛ʼ´′", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("「『【〖〔〈《", "("),
    **dict.fromkeys("」』】〗〕〉》", ")"),
    **dict.fromkeys("‐‑‒–−", "-"),
    **dict.fromkeys("—―⸺", " - "),
    **dict.fromkeys("\r\x85\u2028\u2029", "\n"),
    "。": ".",
    "、": ",",
    "⁄": "/",
    "∕": "/",
}
# Marks that are worn by plain letters: wide ones, those in circles, those of formulas.
_WORN = ("<wide>", "<font>", "<circle>", "<square>", "<compat>")
_SIGNS = frozenset("+<>=±×÷≤≥≠≈¬√∞~#%&@°^")

_THOUGHT = r"(?:think|thinking|thought|thoughts|reasoning)"
_THOUGHT_ENDS = re.compile(rf"</{_THOUGHT}>|◁/think▷", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(rf"<{_THOUGHT}>|◁think▷", re.IGNORECASE)
_ANSWER_BEGINS = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_ENDS = re.compile(r"</answer>", re.IGNORECASE)
_BOX = re.compile(r"\\f?boxed ?\{")

_TWO_BOXES = re.compile(r"\{([^{}\n]{1,20})\}[ $]*(?:,|or|and|/|&)[ $]*$")

_MARKUP = (
    (re.compile(r"\\[A-Za-z]{1,20}\*? ?\{([^{}\n]{0,200})\}"), r"\1"),
    (re.compile(r"\\[A-Za-z]{1,20}\*? ?\{([^{}\n]{0,200})\}"), r"\1"),  # \textbf{\text{B}}
    (re.compile(r"\\[()\[\],;!]"), " "),
    (re.compile(r"</?(?:br|p|li|div|ul|ol)\b[^<>\n]{0,40}>", re.IGNORECASE), "\n"),
    (re.compile(r"</?[A-Za-z|][^<>\n]{0,40}>"), " "),
    (re.compile(r"~~[^~\n]{1,200}~~"), " "),
    (re.compile(r"^ ?#{1,6} ", re.MULTILINE), ""),
    (re.compile(r"[*`]+"), ""),
    (re.compile(r"(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9])"), ""),
    (re.compile(r"(?<![0-9])\$(?![0-9])"), ""),
    (re.compile(r"\b(?:minus|negative) (?=[0-9])", re.IGNORECASE), "-"),
)
_BLANKS = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")

# Of the kinds that _Kinds gives: words with the signs they wear, numbers with what is inside.
_TOKENS = re.compile(
    r"k|(?:(?<![a0+-])[+-]{1,3}(?=[a0])|\+{1,3}(?=0))?(?:[a0]|(?<=0)[.-](?=0))+"
    r"(?:[+-]{1,3}(?![a0+-]))?|\++"
)


class _Alphabet(dict[int, str]):
    """By code point: the plain character that one stands for."""

    def __missing__(self, code: int) -> str:
        self[code] = _plain_character(chr(code))
        return self[code]


class _Kinds(dict[int, str]):
    """By code point: "0" digit, "a" letter, "k" a word of its own, "+" "-" "." signs, " " else."""

    def __missing__(self, code: int) -> str:
        self[code] = _kind(chr(code))
        return self[code]


def _plain_character(char: str) -> str:
    if char in _ALIKE:
        return _ALIKE[char]
    category = unicodedata.category(char)
    if category in ("Zs", "Cc", "Cs"):
        return "\n" if char == "\n" else " "
    if category == "Cf":
        return ""
    if unicodedata.decomposition(char).startswith(_WORN):
        plain = unicodedata.normalize("NFKC", char)
        return plain if plain.isascii() else char
    name = unicodedata.name(char, "")
    if category == "So" and " LATIN CAPITAL LETTER " in name:
        return name[-1] if name[-2] == " " else char
    return char


def _kind(char: str) -> str:
    category = unicodedata.category(char)
    if char.isdecimal():
        return "0"
    if _IS_CJK.match(char):
        return "k"
    if char.isalnum() or category.startswith("M"):
        return "a"
    if char == "-":
        return "-"
    if char in ".,:/":
        return "."
    if char in _SIGNS or category == "Sc":
        return "+"
    return "k" if category == "So" else " "


_ALPHABET, _KINDS = _Alphabet(), _Kinds()


def spelt(text: str) -> str:
    """Write a text with plain characters, single blanks and single ends of lines.

    Wide letters, letters in circles and those of formulas become plain ones, brackets and stops of
    Chinese and Japanese those of ASCII.
    """
    return _LINES.sub("\n", _BLANKS.sub(" ", text.translate(_ALPHABET))).strip()


def final(text: str) -> str:
    """Cut off thoughts; give what the last ``<answer>`` or box holds, where there is one.

    A thought that has no end holds no answer.

    Args:
        text: see `spelt`.
    """
    rest = _THOUGHT_ENDS.split(text)[-1]
    rest = _THOUGHT_BEGINS.split(rest, maxsplit=1)[0]
    for part in reversed(_ANSWER_BEGINS.split(rest)[1:]):
        inside = _ANSWER_ENDS.split(part, maxsplit=1)[0]
        if inside.strip(" \n."):
            rest = inside
            break
    boxes = list(_BOX.finditer(rest))
    for place in range(len(boxes) - 1, -1, -1):
        inside = _braced(rest, boxes[place].end())
        if inside.strip(" \n."):
            before = rest[max(0, boxes[place].start() - 30) : boxes[place].start()]
            joined = _TWO_BOXES.search(before)
            return f"{joined[1]} or {inside}" if joined else inside.strip()
    return rest.strip()


def _braced(text: str, start: int) -> str:
    """Return what stands in front of the brace that closes; the rest where none does."""
    depth = 1
    for brace in re.compile("[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    return text[start:]


def unmarked(text: str) -> str:
    """Take off markdown, tags and the words of LaTeX; see `spelt`.

    A `JOINT` comes between Latin letters and scripts that write no blanks.
    """
    for pattern, plain in _MARKUP:
        text = pattern.sub(plain, text)
    return _JOINTS.sub(JOINT, spelt(text))


class Words:
    """The words of a text, with their places.

    Signs that make a difference belong to their words: "C++", "-5", "$50", "3:1"; hyphens between
    letters, quotes and other punctuation belong to none. A Chinese, Japanese or Korean character is
    a word. Case makes no difference.

    Args:
        text: see `unmarked`.
        apart: places of letters that name options, as in "A) cat", and are no words.
    """

    def __init__(self, text: str, apart: frozenset[int] = frozenset()) -> None:
        places = [match.span() for match in _TOKENS.finditer(text.translate(_KINDS))]
        self.words = tuple(
            _folded(text[start:end]) + (")" if start in apart else "") for start, end in places
        )
        self.joined = f" {' '.join(self.words)} "
        self._places = places
        self._starts: list[int] = []
        at = 0
        for word in self.words:
            self._starts.append(at)
            at += len(word) + 1

    def find(self, words: Sequence[str]) -> list[tuple[int, int]]:
        """Return the places in the text at which some words stand one after the other."""
        wanted = f" {' '.join(words)} "
        found, at = [], self.joined.find(wanted) if words else -1
        while at >= 0:
            first = bisect_right(self._starts, at) - 1
            last = first + len(words) - 1
            found.append((self._places[first][0], self._places[last][1]))
            at = self.joined.find(wanted, at + 1)
        return found


def is_cjk(text: str) -> bool:
    """Whether a text begins with a character of Chinese, Japanese or Korean."""
    return bool(_IS_CJK.match(text))


def _folded(word: str) -> str:
    # Long runs of accents take Python a quadratic time to sort.
    return (unicodedata.normalize("NFC", word) if len(word) < 100 else word).casefold()
