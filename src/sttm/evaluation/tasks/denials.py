"""Where an answer denies what it names: "not B", "B is wrong", "that is not correct"."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from sttm.evaluation.tasks.spelling import JOINT

# Contain words of denial, but deny nothing.
NEUTRAL = re.compile(
    r"\b(?:(?:none|nothing|no)\sother\sthan|nothing\s(?:but|except)|no\s(?:doubt|question)"
    r"|without\s(?:a\s|any\s)?(?:doubt|question)|not\s(?:only|just|merely))\b",
    re.IGNORECASE,
)
_NT = r"(?:n't|\b(?:is|are|was|were|do|does|did|ca|could|would|should|wo|has|have|had|must)nt)\b"
_WRONG = (
    r"(?:(?:in)?correct(?<=incorrect)|wrong|false|untrue|impossible|implausible|inaccurate"
    r"|unlikely|irrelevant|eliminated|excluded|ruled\sout|discarded|rejected|dismissed)"
)
# In front of an option, up to the end of the clause.
_DENIES = re.compile(
    rf"{_NT}|\b(?:not|never|neither|nor|cannot|no|none\sof|hardly|without|except|exclud(?:e|es|ing)"
    r"|eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing)\sout|discard(?:s|ing)?|reject(?:s|ing)?"
    r"|dismiss(?:es|ing)?|than|instead\sof|unlike|opposed\sto|doubt|unlikely|ignor(?:e|ing)|avoid"
    r"|(?:all|any(?:thing|one)?|everything)\sbut|kein|keine|nicht|weder|noch|pas|ni|não|non)\b"
    r"|\b(?:wrong|incorrect|false) (?:answer|option|choice|one|statement)s?\b"
    rf"|\b(?:not\scorrect|{_WRONG})(?:\s(?:answer|option|choice|one)s?)?\s?(?:is|are)?:\s?"
    r"|不是|不选|不選|不应选|并非|並非|非|不可能|不会|不會|排除|没有|沒有",
    re.IGNORECASE,
)
# Behind an option, as the predicate of it.
_DENIED = re.compile(
    rf"{_NT}|\b(?:not|never|neither|cannot|no|hardly|nicht|pas|{_WRONG}|contradict(?:s|ed)?"
    r"|fail(?:s|ed)?|mismatch(?:es)?|lack(?:s|ed)?|out)\b",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"(?:\s?,[^,.;:\n]{1,40},)?\s(?:\w{2,15}ly\s|all\s|both\s|also\s|then\s)?"
    r"(?:is|are|was|were|does|do|did|can|could|will|would|should|must|has|have|had|may|might|need"
    r"|needs|seems?|appears?|looks?|sounds?|gets?|ca|wo|n'est|est|ist|sind|es|son|é|è)"
    r"(?=n't|nt\b|\b)|\s(?=cannot\b)",
    re.IGNORECASE,
)
_DENIED_AT_ONCE = re.compile(
    rf" ?(?:[:(.-] ?)?(?:{_WRONG}|not (?:correct|right|true|supported|mentioned|shown|seen|visible"
    rf"|present|accurate|the (?:answer|one|case))) ?(?:$|[.,;!)\n])| (?:{_WRONG})\b| (?:contradicts"
    rf"|fails|mismatches|lacks)\b| ?[:(-]? ?[✗✘❌×]"
    rf"|[ {JOINT}]?(?:选项|選項)?(?:是|は|が|이|가|은|는|显然|明显|肯定|也|都)?[ {JOINT}]?"
    rf"(?:不(?!是[ {JOINT}]?[(\[]?(?:option )?[A-J])(?!选)(?!選)|错|錯|误|誤|没|沒|無"
    r"|ではな|ではあ|じゃな|でな|でありま|違|間違|아니|아닙|아닌|틀|않)",
    re.IGNORECASE,
)
_RETRACTED = re.compile(
    r"\b(?:that|this|it|which)(?:\s(?:is|was|would\sbe|seems)|'s)\s?(?:clearly\s|actually\s)?"
    rf"(?:{_WRONG}|not\s(?:right|correct|true|it|so|the\s(?:answer|case)))\b"
    r"|\b(?:that|this|it|which)\s(?:isn't|wasn't|can't\sbe|cannot\sbe)\s(?:right|correct|true|it|so"
    r"|the\s(?:answer|case))\b",
    re.IGNORECASE,
)
_BREAKS = re.compile(
    r"[.,;:!?\n()]|\s-\s|\b(?:but|so|because|since|therefore|thus|hence|however|while|whereas|although"
    r"|though|then|and|as|leaving|leaves?|which|where|when|who|sondern|mais|sino)\b"
    r"|而(?!不|非)|但|所以|因为|因此|因為|就选|就是",
    re.IGNORECASE,
)
_BREAKS_BEHIND = re.compile(rf"{_BREAKS.pattern}|\b(?:that|for|if|with)\b|而", re.IGNORECASE)
_CLOSING = re.compile(r"[\"')\]]{1,4}")


class Denials:
    """The denials of an answer: a "not" in front in the same clause, or a predicate behind.

    Args:
        text: the answer.
        quoted: start and end of the texts of options in it; words inside them deny nothing.
    """

    def __init__(self, text: str, quoted: Sequence[tuple[int, int]]) -> None:
        self._text = text
        starts = [start for start, _ in quoted]

        def free(match: re.Match[str]) -> bool:
            """Whether a match is no part of an option's text."""
            at = bisect_right(starts, match.start()) - 1
            return at < 0 or match.start() >= quoted[at][1]

        self._breaks = [m.start() for m in _BREAKS.finditer(text) if free(m)]
        self._behind = [m.start() for m in _BREAKS_BEHIND.finditer(text) if free(m)]
        self._denies = [m.end() for m in _DENIES.finditer(text) if free(m)]
        self._denied = [m.span() for m in _DENIED.finditer(text) if free(m)]
        self._retracted = [m.start() for m in _RETRACTED.finditer(text) if free(m)]

    def before(self, place: int) -> bool:
        """Whether a denial stands in front of a place, in the same clause."""
        at = bisect_right(self._denies, place) - 1
        if at < 0:
            return False
        end = self._denies[at]
        first = bisect_left(self._breaks, end)
        return first == len(self._breaks) or self._breaks[first] >= place

    def behind(self, end: int, following: int, *, by_letter: bool) -> bool:
        """Whether the clause goes on with a denial of a mention, or the text takes it back.

        Args:
            end: where the mention ends.
            following: where the next one begins.
            by_letter: whether letters name it.
        """
        text = self._text
        mark = _CLOSING.match(text, end)
        after = mark.end() if mark and by_letter else end
        if _DENIED_AT_ONCE.match(text, end) or _DENIED_AT_ONCE.match(text, after):
            return True
        at = bisect_left(self._retracted, end)
        if at < len(self._retracted) and self._retracted[at] < following:
            return True
        verb = _VERB.match(text, end)
        if verb is None:
            return False
        first = bisect_left(self._behind, verb.end())
        stop = self._behind[first] if first < len(self._behind) else len(text)
        at = bisect_left(self._denied, (verb.end(), 0))
        if at == len(self._denied) or self._denied[at][0] >= stop:
            return False
        # "B is right not A" denies what comes next.
        return not (self._denied[at][1] <= following <= self._denied[at][1] + 1)
