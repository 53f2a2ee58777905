"""From what a model wrote to a letter.

"clean" is ours, in `clean`: an explicit statement, a marked letter, or the text of one option;
never a guess.
"published" is the rule that the STTM paper's evaluation shares with Video-MME's script, with its
quirks. "official" rules are those of the benchmarks, "official-alternative" a second one that is in
use for the same benchmark.
"""

import re
from collections.abc import Callable, Mapping

from sttm.evaluation.tasks.clean import parse_clean
from sttm.evaluation.tasks.items import Item

# Deleted in this order, wherever they stand; case matters. Two commas are missing in the published
# list: two pairs run together, so that none of their four halves is ever removed as a whole. "Best
# answer: C" gives B.
PUBLISHED_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)

LONG = 10  # words


def parse(
    text: str, item: Item, parser: str, *, published_letters: str, own: Mapping[str, str]
) -> str | None:
    """Read an answer; see `Task.parse`."""
    if not item.options:
        return parse_open(text, item)
    if parser == "published":
        return parse_published(text, published_letters)
    if parser in own:
        return OFFICIAL_PARSERS[own[parser]](text, published_letters)
    return parse_clean(text, item)


def parse_open(text: str, item: Item) -> str | None:
    """Read the answer to an open question; case and a full stop do not matter."""
    read = text.strip().rstrip(".").strip()
    if item.answer is not None and read.casefold() == item.answer.casefold():
        return item.answer
    return read or None


def parse_published(text: str, letters: str) -> str | None:
    """Take the first capital letter of an option anywhere, even inside a word: "Based on" gives B.

    Source: the evaluation of the STTM paper, and ``eval_your_results.py`` of Video-MME (the current
    one; the older one lacks the last four prefixes).
    """
    rest = text.strip()
    for prefix in PUBLISHED_PREFIXES:
        rest = rest.replace(prefix, "")
    # Of more than ten words it also gives up where none of the first five letters is: so "From what
    # can be seen..." is no F in LongVideoBench, whose letters go on to F.
    if len(rest.split()) > LONG and not re.search(f"[{letters[:5]}]", rest):
        return None
    found = re.search(f"[{letters}]", rest)
    return found[0] if found else None


def parse_vnbench(text: str, letters: str) -> str | None:
    """Take the first of A, B, C, D, in this order, that occurs in front of the first full stop.

    Source: ``evaluation/eval.py`` of VideoNIAH.
    """
    head = text.split(".")[0]
    return next((letter for letter in letters if letter in head), None)


def parse_mlvu(text: str, letters: str) -> str | None:
    """Take the character in front of the first closing bracket; without one, the whole answer.

    Source: ``check_ans`` of MLVU's template for any model, ``choice_bench.py``.
    """
    head, bracket, _ = text.strip().partition(")")
    return _letter(head[-1:] if bracket else head, letters)


def parse_mlvu_videochat(text: str, letters: str) -> str | None:
    """Take everything in front of the first closing bracket, which has to be a letter.

    Source: ``check_ans`` of MLVU's scripts for VideoChat and VideoChat2, whose answers begin behind
    "Best option:(".
    """
    return _letter(text.strip().partition(")")[0], letters)


def _letter(text: str, letters: str) -> str | None:
    return text if len(text) == 1 and text in letters else None


OFFICIAL_PARSERS: dict[str, Callable[[str, str], str | None]] = {
    "vnbench": parse_vnbench,
    "videomme": parse_published,
    "mlvu": parse_mlvu,
    "mlvu-videochat": parse_mlvu_videochat,
}
