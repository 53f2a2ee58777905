"""From what a model wrote to a letter.

"clean" is ours: an explicit statement, a marked letter, or the text of one option; never a guess.
"published" is the rule that the STTM paper's evaluation shares with Video-MME's script, with its
quirks. "official" rules are those of the benchmarks.
"""

import re
from collections.abc import Callable

from sttm.evaluation.tasks.items import Item

# Two commas are missing in the published list: the last two entries are pairs that run together,
# so that none of their four halves is ever removed. "Best answer: C" gives B.
PUBLISHED_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)

_THOUGHT = re.compile(r"<think>.*?</think>|^.*</think>", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\(?([A-J])\)?[^}]*\}|<answer>\s*\(?([A-J])\b", re.I)
_BARE = re.compile(r"[\W_]*([A-J])[\W_]*", re.IGNORECASE)
_SAID = r"(?:\s+(?:is|was|would\s+be|should\s+be|must\s+be|seems\s+to\s+be))"
# "A", "a", "I" and "i" are words too: in front of a small letter they are no letters of options,
# unless the word begins a reason or names another option. A small "a" must have an end besides.
_REASON = r"because|since|as|and|or|for|from|which|it|but|due|based|so"
_LETTER = rf"(?:[B-HJ]|[AI](?!\s+(?!{_REASON})[a-z]))(?!['’]?\w)"
_SMALL = (
    r"(?:[b-hj](?!['’.-]?\w)"
    rf"|[ai](?=[\"'”’)\]]*\s*(?:[.,;:!?](?!\w)|\n|$)|\s*\)|\s+(?:is|{_REASON})\b))"
)
_EITHER = rf"(?:{_LETTER}|{_SMALL})"
_NO_OTHER = rf"(?!\W{{0,3}}\s*(?:or|and|/)\s*\(?(?:[A-J]\b|{_SMALL}))"  # "A or B" states nothing
# What makes a letter of a small one: "option b".
_NAMED = r"\b(?:[Oo]ption|[Aa]nswer|[Cc]hoice)\s+[\"'“‘(\[]*"
_OPEN = r"[:\"'“‘(\[]*"
_STATEMENTS = (
    re.compile(
        r"\b(?:[Aa]nswer|ANSWER|[Oo]ption|[Cc]hoice|[Ll]etter|[Ss]election)"
        rf"(?:\s+(?:to|for|of)\b[^.:\n]*?)?(?:{_SAID}|\s*[:=])\s*"
        r"(?:(?:most\s+likely|probably|clearly|therefore|definitely|simply)\s+)?"
        rf"(?:[Oo]ption|[Aa]nswer|[Cc]hoice|[Ll]etter)?\s*{_OPEN}({_EITHER}){_NO_OTHER}"
    ),
    re.compile(
        r"\b(?:I|[Ww]e)(?:['’]d|\s+would)?\s+(?:choose|pick|select|go\s+with|say)\s+"
        rf"(?:option\s+|answer\s+)?{_OPEN}({_EITHER}){_NO_OTHER}",
    ),
    re.compile(
        r"\(?\b([A-Ja-j])[)\].:]*\s+is\s+(?:therefore\s+)?(?:the\s+)?"
        r"(?:correct|right|best|most\s+\w+)\b(?!\s+than)"
    ),
    re.compile(r"(?:^|\n)\s*answer\s+\(?([A-J])\)?\s*[.]?\s*$", re.IGNORECASE),
)
_NEGATED = re.compile(
    r"\b(?:not|n['’]t|neither|nor)\s+(?:option\s+|answer\s+)?"
    rf"(?:\(?[A-J]\)?(?!\w)|\([a-j]\)|{_SMALL})"
)
_LINE_START = re.compile(
    r"^\s*(?:\(([A-Ja-j])\)|([A-Ja-j])\s*[.):](?!\w)|([A-Jb-hj])\s*[,;–—-]\s)", re.MULTILINE
)
_BRACKETED = re.compile(r"(?<!\w)\(([A-Ja-j])\)")
_ALONE = re.compile(rf"(?<![\w'’.])({_LETTER})|{_NAMED}({_SMALL})")
_NOT_WORDS = re.compile(r"[\W_]+")


def parse(
    text: str, item: Item, parser: str, *, published_letters: str, official: str | None
) -> str | None:
    """Read an answer; see `Task.parse`."""
    if not item.options:
        return parse_open(text, item)
    if parser == "published":
        return parse_published(text, published_letters)
    if parser == "official" and official is not None:
        return OFFICIAL_PARSERS[official](text, published_letters)
    return parse_clean(text, item)


def parse_open(text: str, item: Item) -> str | None:
    """Read the answer to an open question; case and a full stop do not matter."""
    read = text.strip().rstrip(".").strip()
    if item.answer is not None and read.casefold() == item.answer.casefold():
        return item.answer
    return read or None


def parse_published(text: str, letters: str) -> str | None:
    """Take the first capital letter of an option anywhere, even inside a word: "Based on" gives B.

    Source: the evaluation of the STTM paper, and ``eval_your_results.py`` of Video-MME.
    """
    rest = text.strip()
    for prefix in PUBLISHED_PREFIXES:
        rest = rest.replace(prefix, "")
    found = re.search(f"[{letters}]", rest)
    # It also gives up on more than ten words without any letter, which finds none anyway.
    return found[0] if found else None


def parse_clean(text: str, item: Item) -> str | None:
    """Read the letter that an answer states.

    In this order: the text of an option and nothing else; one letter and nothing else; a boxed
    letter; the last explicit statement ("the answer is (B)"); the letter that the answer, or one of
    its lines, begins with; the only letter in brackets; the only option whose text occurs; the only
    letter that stands alone. Two that contradict each other give none. Small letters count where a
    mark makes them letters ("(b)", "b.", "option b"), "a" and "i" only if they are no words there.
    """
    answer = re.sub(r"[*_`#$]+", "", _THOUGHT.sub("", text)).strip()
    answer = _NEGATED.sub("not that", answer)
    exact = [i for i, option in enumerate(item.options) if _words(option) == _words(answer)]
    if len(exact) == 1 and _words(answer):
        return item.letters[exact[0]]
    bare = _BARE.fullmatch(answer)
    if bare:
        return _only({bare[1].upper()}, item)
    for find in (_boxed, _stated, _begun, _bracketed, _quoted, _standing):
        letters = {letter for letter in find(answer, item) if letter in item.letters}
        if letters:
            return _only(letters, item)
    return None


def parse_vnbench(text: str, letters: str) -> str | None:
    """Take the first of A, B, C, D, in this order, that occurs in front of the first full stop.

    Source: ``evaluation/eval.py`` of VideoNIAH.
    """
    head = text.split(".")[0]
    return next((letter for letter in letters if letter in head), None)


def parse_mlvu(text: str, letters: str) -> str | None:
    """Take what stands in front of the first closing bracket, if it is a letter.

    Source: ``check_ans`` of MLVU. Differs: an opening bracket in front of it is left out, which the
    official prompt has already opened.
    """
    head = text.split(")")[0].strip().removeprefix("(").strip()
    return head if len(head) == 1 and head in letters else None


OFFICIAL_PARSERS: dict[str, Callable[[str, str], str | None]] = {
    "vnbench": parse_vnbench,
    "videomme": parse_published,
    "mlvu": parse_mlvu,
}


def _only(letters: set[str], item: Item) -> str | None:
    known = letters & set(item.letters)
    return known.pop() if len(known) == 1 else None


def _boxed(text: str, item: Item) -> set[str]:
    found = [next(filter(None, match.groups())).upper() for match in _BOXED.finditer(text)]
    return set(found[-1:])


def _stated(text: str, item: Item) -> set[str]:
    said = [
        (match.end(), next(filter(None, match.groups())).upper())
        for pattern in _STATEMENTS
        for match in pattern.finditer(text)
    ]
    known = [place for place in said if place[1] in item.letters]
    return {max(known)[1]} if known else set()


def _begun(text: str, item: Item) -> set[str]:
    """Letters that begin the answer or its lines; all of them where the options are repeated."""
    return _letters(_LINE_START, text)


def _bracketed(text: str, item: Item) -> set[str]:
    return _letters(_BRACKETED, text)


def _quoted(text: str, item: Item) -> set[str]:
    """Options whose text occurs, without those that are part of another such one."""
    said = f" {_words(text)} "
    texts = {letter: f" {_words(o)} " for letter, o in zip(item.letters, item.options)}
    found = {letter: t for letter, t in texts.items() if t.strip() and t in said}
    return {
        letter
        for letter, t in found.items()
        if not any(t in other and t != other for other in found.values())
    }


def _standing(text: str, item: Item) -> set[str]:
    return _letters(_ALONE, text)


def _letters(pattern: re.Pattern[str], text: str) -> set[str]:
    """Give the letters that a pattern finds, each in the one of its groups that matched."""
    return {next(filter(None, match.groups())).upper() for match in pattern.finditer(text)}


def _words(text: str) -> str:
    return _NOT_WORDS.sub(" ", text).strip().casefold()
