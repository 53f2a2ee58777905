"""Where an answer names options, by letter or by text, and where it denies them."""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from sttm.evaluation.tasks.denials import NEUTRAL, Denials
from sttm.evaluation.tasks.items import LETTERS, Item
from sttm.evaluation.tasks.spelling import JOINT, Words, is_cjk, spelt, unmarked

UNKNOWN = "?"  # in place of a letter that is none of an option

# "A" and "I" are words too: in front of another word they name options only where no noun can come.
_GOES_ON = (
    r"(?:because|since|as|and|or|for|from|which|it|but|due|based|so|nor|is|isn't|was|wasn't|are"
    r"|aren't|were|has|does|doesn't|do|don't|did|didn't|would|wouldn't|could|couldn't|cannot|can't"
    r"|can be|can not|must be|should|shouldn't|seems|appears|looks|fits|matches|best fits|fails"
    r"|contradicts|on|in|given|instead|rather|not|only|where|when|if|then|with|to|through|plus|und"
    r"|oder|et|ou|y|est|es|ist|n'est|makes)\b"
)
_LETTER = re.compile(
    r"(?<![\w'.@#°^=<~\\-])(?<!(?<!\w)\+)"
    r"(?:[B-HJ]|[AI](?P<word>(?= [A-Za-z])(?! [A-J](?!['\w]))(?! " + _GOES_ON + r"))?)"
    r"(?!'?\w)(?![#%°^=@~]|\+(?![A-J]\b)|-(?![\sA-J])|-[A-J]\w|\.[A-Za-z]\.)"
    r"|(?<=[A-J]-)[A-J](?!['-]?\w)|(?<=')[A-J](?=')"
    r"|(?<!\w)[K-Z](?=[/&])|(?<=[/&])[K-Z](?!\w)"
)
_SMALL = re.compile(
    r"(?<![\w'.@#$&°^=<~\\-])(?:[b-hj](?!['.-]?\w)(?![+#%°^=~]|-(?!\s))"
    rf"|[ai](?=[\"')\]]*\s*(?:[.,;:!?](?!\w)|\n|$)|\s*\)|\s{_GOES_ON}))"
)
_OPENING, _CLOSING = re.compile(r"[\"'(\[]{1,4}$"), re.compile(r"[\"')\]]{1,4}")
_NAMED = re.compile(
    r"(?:\b(?:options?|answers?|choices?|letter)\s|选项|選項|选项|옵션|보기)[\s:]?$", re.IGNORECASE
)
# Behind other words a letter is a label: "plan B", "person A", "vitamin C".
_NO_LABEL = re.compile(
    r"(?:^|\n|[^A-Za-zÀ-ɏ\s]\s?|\b(?:\w{2,12}ly|(?:it|that|this|answer)'s|is|was|be|being|it|only"
    r"|maybe|perhaps|so|but|and|or|nor|not|then|than|with|to|for|as|of|in|on|by|at|that|this|think"
    r"|guess|believe|say|says|like|choose|pick|select|see|shows?|fits|matches|means|indicates"
    r"|suggests|supports|favou?rs?|leaves?|leaving|left|thus|hence|therefore|sure|yes|no|ok|okay"
    r"|well|both|either|neither|would|just|option|answer|choice|letter|est|es|ist|ou|et|oder|und|y"
    r"|é|è|je|ich|yo)\s)[\"'(\[]*$",
    re.IGNORECASE,
)

_MAYBE = r"(?:\s*(?:also|maybe|possibly|perhaps|even|probably|either|both|then)\b)?"
_NOUN = r"(?:\s*(?:the\s)?(?:options?|answers?|choices?|letters?)\b)?"
_JOINED = re.compile(
    r"\s*,?\s*(?:\(\s*)?(?:or|and|nor|and/or|/|&|\+|\||vs\.?|versus|plus|as\swell\sas|along\swith"
    r"|together\swith|und|oder|et|ou|y|和|或|或者|与|與|及|以及|还是|還是|跟|や|と|か|または|와|과|또는"
    rf"|혹은|이나|나|랑|및){_MAYBE}{_NOUN}\s*",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\s?(?:-|to|through)\s?")
_LISTED = re.compile(rf"\s?[,;]{_MAYBE}{_NOUN}\s*|[ {JOINT}]", re.IGNORECASE)
# What follows the last one of a list, and not a letter that begins a sentence of its own.
_LIST_ENDS = re.compile(
    r"\s*(?:$|[.,;:!?)\n/&|]|(?:or|and|nor|are|aren't|were|weren't|both|all|do|don't|have)\b"
    r"|[和或与都]| [A-J](?!['\w]))"
)
_LINE_ENDS = re.compile(r"[.!]?(?:\n|$)| are\b")
_SENTENCE = re.compile(
    r"\s(?:is|isn't|was|wasn't|does|doesn't|has|cannot|can|can't|could|would|wouldn't|seems|shows"
    r"|fits|matches|contradicts|fails|describes)\b"
)

_SUFFIXES = re.compile(
    r"\s*(?:$|[.,;:!?)\n]|입니다|이에요|예요|이다|이며|です|だ|で|は|が|을|를|的|，)"
)


@dataclass(frozen=True)
class Mention:
    """One place, or a list of places, where options are named.

    Args:
        start, end: in the text, brackets and quotes around it included.
        letters: of the options that can be meant; `UNKNOWN` stands for those that are none.
        by_letter: whether a letter names it.
        marked: the letter stands in brackets, or behind "option".
        capital: whether the letter is a capital one.
        alone: it counts without a mark: it touches no other script, and is no word of the question.
        label: a word stands in front that it may belong to ("plan B").
        short: one character of a script without blanks, which may be part of a word.
        denied: the answer says that it is not this.
    """

    start: int
    end: int
    letters: frozenset[str]
    by_letter: bool
    marked: bool = False
    capital: bool = False
    alone: bool = False
    label: bool = False
    short: bool = False
    denied: bool = False


class Reply:
    """An answer, with the places where it names options.

    Args:
        text: what the answer says in the end, see `spelling.final`.
        item: what was asked.
    """

    def __init__(self, text: str, item: Item) -> None:
        self.raw = text
        self.text = NEUTRAL.sub(" ", unmarked(text)).strip()
        self.item = item
        self.letters = item.letters
        self.options = [_Option(letter, text) for letter, text in zip(item.letters, item.options)]

    @cached_property
    def words(self) -> Words:
        """Its words; letters in front of texts, as in "A) cat", are none."""
        own = {option.enumerator for option in self.options}
        marks = _ENUMERATORS.finditer(self.text)
        return Words(self.text, frozenset(m.start(1) for m in marks if m[1].casefold() not in own))

    @cached_property
    def owners(self) -> dict[str, frozenset[str]]:
        """By letter: the options whose whole text is that letter."""
        found: dict[str, frozenset[str]] = {}
        for option in self.options:
            if option.is_letter:
                name = option.words[0].upper()
                found[name] = found.get(name, frozenset()) | {option.letter}
        return found

    @cached_property
    def mentions(self) -> list[Mention]:
        """All of them, lists as one, in order."""
        return list(self._lists(self._places))

    @cached_property
    def by_start(self) -> dict[int, Mention]:
        """The mentions by where they begin, with and without what is around them."""
        return {mention.start: mention for mention in self.mentions}

    def around(self, place: int) -> Mention | None:
        """Return the mention that covers a place."""
        at = bisect_right(self._starts, place) - 1
        return self.mentions[at] if at >= 0 and place < self.mentions[at].end else None

    @cached_property
    def _starts(self) -> list[int]:
        return [mention.start for mention in self.mentions]

    def denies(self, place: int) -> bool:
        """Whether a denial stands in front of a place, in the clause."""
        return self._denials.before(place)

    def meaning(self, letter: str, *, marked: bool) -> frozenset[str]:
        """Return the options that a letter may stand for.

        Args:
            letter: a capital one.
            marked: it can be no text of an option.
        """
        own = frozenset({letter} if letter in self.letters else ())
        return own | (frozenset() if marked else self.owners.get(letter, frozenset()))

    def denied_letters(self, after: int = 0, *, texts: bool = False) -> frozenset[str]:
        """Return the letters that are denied from a place on.

        Args:
            after: the place.
            texts: count options that are denied by their text.
        """
        denied = (
            mention.letters
            for mention in self.mentions
            if mention.denied and mention.start >= after and (texts or mention.by_letter)
        )
        return frozenset().union(*denied)

    def _spans(self) -> list[Mention]:
        """Return the places of the options' texts, without those inside longer ones."""
        places: dict[tuple[int, int], frozenset[str]] = {}
        for option in self.options:
            if not option.is_letter:
                for place in self.words.find(option.words):
                    places[place] = places.get(place, frozenset()) | {option.letter}
        found: list[Mention] = []
        for start, end in sorted(places, key=lambda place: (place[0], -place[1])):
            if found and end <= found[-1].end:
                continue
            one = end - start == 1 and is_cjk(self.text[start])
            short = one and start > 0 and self.text[start - 1].isalnum()
            if not one or _SUFFIXES.match(self.text, end):
                found.append(Mention(start, end, places[start, end], by_letter=False, short=short))
        return found

    @cached_property
    def _places(self) -> list[Mention]:
        """Return letters and texts, one by one, in order."""
        texts = self._spans()
        starts = [span.start for span in texts]
        found = [self._around(span) for span in texts]
        used = _used_as_words(self.item, self.options)
        for pattern in (_LETTER, _SMALL):
            for match in pattern.finditer(self.text):
                at = bisect_right(starts, match.start()) - 1
                if at >= 0 and match.start() < texts[at].end:
                    continue
                letter, end = match[0].upper(), match.end()
                if match.groupdict().get("word") is not None and not self._own_text(letter, end):
                    continue
                found.append(self._letter(match[0], match.start(), end, used))
        return sorted(found, key=lambda mention: mention.start)

    def _own_text(self, letter: str, end: int) -> bool:
        """Whether the text of its own option stands behind a letter."""
        option = next((o for o in self.options if o.letter == letter), None)
        if option is None or option.is_letter or not option.words:
            return False
        behind = Words(self.text[end : end + 2 * len(option.text) + 20]).words
        return behind[: len(option.words)] == option.words

    def _letter(self, char: str, start: int, end: int, used: frozenset[str]) -> Mention:
        mention = self._around(Mention(start, end, frozenset(), by_letter=True))
        bracketed = any(c in "([" for c in self.text[mention.start : start]) and any(
            c in ")]" for c in self.text[end : mention.end]
        )
        named = _NAMED.search(self.text, max(0, mention.start - 12), mention.start) is not None
        letter = char.upper()
        meant = self.meaning(letter, marked=bracketed or named)
        if char == letter and letter not in LETTERS:
            meant = frozenset()
        before = self.text[max(0, start - 16) : start]
        label = not (bracketed or named or before.endswith(JOINT) or _NO_LABEL.search(before))
        touching = JOINT in (self.text[start - 1 : start], self.text[end : end + 1])
        return replace(
            mention,
            letters=meant or frozenset({UNKNOWN}),
            marked=bracketed or named,
            capital=char == letter,
            alone=char == letter and not touching and not label and letter not in used,
            label=label,
        )

    def _around(self, mention: Mention) -> Mention:
        """Take in brackets and quotes."""
        left = _OPENING.search(self.text, max(0, mention.start - 4), mention.start)
        right = _CLOSING.match(self.text, mention.end)
        return replace(
            mention,
            start=left.start() if left else mention.start,
            end=right.end() if right and left else mention.end,
        )

    @cached_property
    def _denials(self) -> Denials:
        texts = [(place.start, place.end) for place in self._places if not place.by_letter]
        return Denials(self.text, texts)

    def _lists(self, places: list[Mention]) -> Iterator[Mention]:
        """Join what belongs together ("A or B"), and say what is denied."""
        at = 0
        while at < len(places):
            group = places[at]
            if self.denies(group.start):
                group = replace(group, denied=True)
            at += 1
            while at < len(places) and self._joined(group, places[at]):
                one, at = places[at], at + 1
                group = replace(
                    group,
                    end=one.end,
                    letters=group.letters | one.letters,
                    by_letter=group.by_letter or one.by_letter,
                    marked=group.marked or one.marked,
                    capital=group.capital and one.capital,
                    alone=group.alone or one.alone,
                )
            behind = places[at].start if at < len(places) else len(self.text) + 2
            if not group.denied and self._denials.behind(
                group.end, behind, by_letter=group.by_letter
            ):
                group = replace(group, denied=True)
            yield group

    def _joined(self, group: Mention, one: Mention) -> bool:
        """Whether a place goes on with a list."""
        between = self.text[group.end : one.start]
        if len(between) > 40:
            return False
        if _JOINED.fullmatch(between):
            alternative = not re.search(r"and|和|与", between)
            return alternative or not _SENTENCE.match(self.text, one.end)
        letters = group.by_letter and one.by_letter
        capitals = letters and group.capital and one.capital
        if capitals and _RANGE.fullmatch(between):
            return True
        if between == "\n":  # both of them with nothing else
            return letters and not group.denied and bool(_LINE_ENDS.match(self.text, one.end))
        if not _LISTED.fullmatch(between) or not _LIST_ENDS.match(self.text, one.end):
            return False
        if between in (" ", JOINT):
            return capitals
        # "Not B; C" and "not B, option C" go on to another one.
        return not (group.denied and (";" in between or re.search(r"\w", between)))


class _Option:
    """An option with its words."""

    def __init__(self, letter: str, text: str) -> None:
        self.letter = letter
        self.text = spelt(text)
        self.words = Words(unmarked(self.text)).words
        self.is_letter = len(self.words) == 1 and self.words[0].upper() in tuple(LETTERS)
        begins = _ENUMERATORS.match(self.text)
        self.enumerator = begins[1].casefold() if begins and begins[1] != letter else ""


_ENUMERATORS = re.compile(r"^ ?(?:[-*>•] ?)?\(?([A-Ja-j])[.):](?= ?\S)", re.MULTILINE)


def _used_as_words(item: Item, options: list[_Option]) -> frozenset[str]:
    """Return the letters that question or options use as words: "What does C do?"."""
    words = {word for option in options if len(option.words) > 1 for word in option.words}
    words |= set(Words(unmarked(spelt(item.question))).words)
    return frozenset(letter for letter in LETTERS if letter.casefold() in words and letter != "A")
