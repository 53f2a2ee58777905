"""The parser "clean": from what a model wrote to a letter, by an ordered list of rules.

A rule gives the letters that it finds, or None where it does not apply. The first that applies
decides: one letter is the answer, several contradict each other and are none.
"""

import re
from collections.abc import Callable

from sttm.evaluation.tasks.items import Item
from sttm.evaluation.tasks.mentions import UNKNOWN, Mention, Reply
from sttm.evaluation.tasks.spelling import JOINT, Words, final, spelt, unmarked

Rule = Callable[[Reply], frozenset[str] | None]

# No sign may touch the letter: "A+" and "-B" are no letters, "- B" is one.
_AROUND = r"(?:[^\w+#%&@$^°~=-]|-\s|=>|->)*"
_BEHIND = r"(?:[^\w+#%&@$^°~=-]|\s-)*"
_BARE = re.compile(rf"{_AROUND}([A-Ja-j]){_BEHIND}")
_BARE_LINE = re.compile(
    rf"{_AROUND}(?:(?P<named>option|answer|choice) )?{_AROUND}([A-Ja-j]){_BEHIND}", re.IGNORECASE
)
_SENTENCES = re.compile(r"(?:^|(?<=[.!?:]\s))(?<!\b[A-J]:\s)\(?([A-J])\)?(?=[.!]?(\s|$))")
_ASKED = re.compile(r"[^.!?\n]{0,200}\?")

_SURELY = (
    r"(?:(?:most\slikely|\w{2,15}ly|therefore|thus|then|simply|indeed|still|also|actually|just"
    r"|that\sit\sis|it\sis|it's)[\s,]+){0,2}"
)
_IS = (
    r"(?:\s(?:\w{2,15}ly\s|thus\s|therefore\s|then\s|indeed\s|still\s)?(?:is|was|will\sbe|would\sbe"
    r"|should\sbe|must\sbe|must\s\w{2,15}\sbe|has\sto\sbe|can\sonly\sbe|seems?(?:\sto\sbe)?"
    r"|appears?(?:\sto\sbe)?|remains?)|'s)\b"
)
_NOUN = r"(?:the\s)?(?:(?:option|answer|choice|letter)\b\s?:?\s?)?"
_POINTS = r"\s?(?:[:=]|[-=]+>|→|-+\s)[\s:]*"
_HEADS = (
    # The answer is, my final answer:, the correct one is, "answer":
    re.compile(
        r"(?<!\bone\s)(?<!nother\s)(?<!ossible\s)(?<!\bother\s)(?<!\bwrong\s)(?<!correct\s)"
        r"(?<!\bfalse\s)\b(?:(?:answer|option|choice|letter|selection|response|conclusion|pick"
        r"|guess)|(?:(?<!in)correct|right|best)\s(?:one|answer|option|choice|letter))"
        r"(?:\s(?:to|for|of)\b[^.:\n]{0,120}?)?[\"'*)\]]{0,3}"
        rf"(?:{_IS}(?:{_POINTS})?|{_POINTS})\s?{_SURELY}{_NOUN}",
        re.IGNORECASE,
    ),
    # I would choose, going with
    re.compile(
        r"\b(?:(?:I|we)(?:'d|'ll|'m|\s(?:would|will|am|have\sto|must|should|can|do))?"
        r"(?:\s\w{2,15}ly)?\s(?:choose|chose|pick|picked|select|selected|choosing|picking|opt\sfor"
        r"|say|answer|conclude)|(?:go|going)\swith)"
        rf"(?:\s(?:that\s)?(?:it\sis|it's|it\smust\sbe))?\s{_NOUN}",
        re.IGNORECASE,
    ),
    # 答案是, 选, 答えは, 답은
    re.compile(
        r"(?:答案|答え|正解|回答|解答|정답|답변|답|选择|選擇|应选|選び|选|選)(?!项|項)\s?[)\]:\"']{0,2}\s?"
        r"(?:应该|應該|应|應|可能|就|当然|便)?(?:是|为|為|选|選|は|が|은|는|이|가)?(?:选项|選項|옵션)?"
        r"\s?[:=]?\s?"
    ),
    re.compile(
        r"\b(?:r[ée]ponse|respuesta|antwort|resposta|risposta|opci[óo]n|opção|ответ)"
        r"(?:\s(?:correcte|correcta|richtige|juste|corretta|correta|bonne))?"
        r"(?:\s(?:est|es|ist|é|è|lautet)\b|\s?[:=])\s?(?:la\s|die\s|l')?(?:option\s)?:?\s?",
        re.IGNORECASE,
    ),
)
# So, therefore, it must be: only with nothing but the option in the clause.
_CONCLUDES = re.compile(
    r"(?:^|(?<=[\s,.;:(]))(?:(?:so|therefore|thus|hence|consequently|finally|overall|ultimately"
    r"|in\sconclusion|to\sconclude|in\ssummary|actually|wait|correction|no)\b\s?[,:]?\s?)(?:it\s(?:is|must\sbe|has\sto\sbe"
    r"|should\sbe)\s|it's\s|this\sis\s|that\sleaves\s|leaving\s|only\s)?(?:option\s)?"
    r"|\b(?:it\s(?:must|has\sto|can\sonly)\sbe|(?:that|this|which)\s(?:only\s)?leaves|leaving)\s"
    r"(?:us\swith\s)?(?:only\s)?(?:option\s)?|(?<![不非])(?:就|而|应该|該)?(?<![不非])是\s?(?:选项|選項)?\s?",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(r"\s?(?:$|[.,;!)\n]|(?:because|since|as)\b)")
_CORRECT = re.compile(
    r"[.:)]?\s(?:(?:is|are|was|were|must\sbe|would\sbe|should\sbe|has\sto\sbe|seems(?:\sto\sbe)?"
    r"|appears(?:\sto\sbe)?)\s(?:\w{2,15}ly\s|therefore\s|thus\s|then\s|also\s|indeed\s)?"
    r"(?:(?:the|my|our)\s)?(?:final\s)?(?:correct|right(?!-|\s(?:of|next|behind|in|on|at|there|above"
    r"|below|beside|before|after|under)\b)|best(?!-)|true|accurate|answer|most\s(?:likely|plausible"
    r"|accurate|appropriate|suitable|probable|fitting|consistent|reasonable|logical|correct"
    r"|relevant))\b(?!\sthan)"
    r"|(?:fits|matches|describes|answers|explains|summarizes)(?:\s\w{1,15}){0,2}\sbest\b"
    r"|best\s(?:fits|matches|describes|answers|explains|represents|captures|summarizes)\b)"
    r"|\s?(?:[:(-]\s?|\.\s)?(?:[✓✔✅☑]|(?<=[:(.\s-])(?:correct|right)\s?(?:$|[.,;!)\n]))"
    r"|\s?(?:是|为|才是|最|が|이|가)\s?(?:正确|正確|对的|對的|正解|答案|合适|符合|正しい|정답|맞)"
    r"|\s?正[确確](?!吗|嗎)|\s?번(?!째)|\s?(?:です|である|だ(?!\w)|だと思|입니다|이다|이에요|예요)",
    re.IGNORECASE,
)

_NUMBERED = re.compile(r"\s?\(?([A-Ja-j])[.):] ?(?=\S)")
_LINE = re.compile(r"^ ?(?:[-*>•] ?)?", re.MULTILINE)
_BEGINS = re.compile(r"(?<=[)\]])|[.):](?!\w)| ?[,;-]\s| ?(?:=|→)|\s?(?:because|since|due|given)\b")


def parse_clean(text: str, item: Item) -> str | None:
    """Read the letter that an answer states; see `RULES`, and the table in docs/eval-tasks.md.

    Two letters that contradict each other give none, and so does a letter that is denied. Small
    letters count where a mark makes them letters ("(b)", "b.", "option b"), "a" and "i" only if
    they are no words there. Thoughts are cut off, and of a box only what it holds is read.
    """
    reply = Reply(final(spelt(text)), item)
    for rule in RULES.values():
        found = rule(reply)
        if found is not None:
            letter = next(iter(found)) if len(found) == 1 else None
            return letter if letter != UNKNOWN else None
    return None


def _text(reply: Reply) -> frozenset[str] | None:
    """The answer is the text of one option: to the letter, or in all but case and punctuation."""
    return _exactly(reply, reply.raw)


def _letter(reply: Reply) -> frozenset[str] | None:
    """The answer is one letter, with nothing but brackets, quotes or stops around it."""
    bare = _BARE.fullmatch(reply.text)
    if bare is None:
        return None
    return _meant(reply, bare[1], bare[0]) - reply.denied_letters()  # a cross is a mark as well


def _statement(reply: Reply) -> frozenset[str] | None:
    """The last statement, without those that are denied, at once or later on."""
    found: list[tuple[int, frozenset[str]]] = []
    for head in _HEADS:
        for match in head.finditer(reply.text):
            found += _stated(reply, match.end())
    for match in _CONCLUDES.finditer(reply.text):
        mention = _at(reply, match.end())
        if mention and _CONCLUDED.match(reply.text, mention.end):
            found.append((mention.end, mention.letters))
    found += [
        (mention.end, mention.letters)
        for mention in reply.mentions
        if not (mention.denied or mention.label) and _CORRECT.match(reply.text, mention.end)
    ]
    found = [s for s in found if s[1] != {UNKNOWN} and not _ASKED.match(reply.text, s[0])]
    if not found:
        return None
    end, letters = max(found, key=lambda said: (said[0], len(said[1])))
    return letters if not letters & reply.denied_letters(end) else None


def _line(reply: Reply) -> frozenset[str] | None:
    """The only letter that has a line, or the last sentence, to itself."""
    found: set[str] = set()
    start = 0
    for line in reply.text.split("\n"):
        bare = _BARE_LINE.fullmatch(line) if len(line) < 100 else None
        if bare:
            found |= _meant(reply, bare[2], f"({line})" if bare["named"] else line)
            within = reply.around(start + bare.start(2))
            found |= within.letters if within else set()  # "A or" in the line in front
        start += len(line) + 1
    sentences = list(_SENTENCES.finditer(reply.text))
    if sentences and not found and len(reply.text) - sentences[-1].end() < 2:
        for sentence in sentences:
            found |= _meant(reply, sentence[1], sentence[0])
    return _some(found - {UNKNOWN} - reply.denied_letters())


def _beginning(reply: Reply) -> frozenset[str] | None:
    """The letter that the answer or a line begins with; all of them where options are repeated.

    Points of a list below a headline that begins with a letter do not count.
    """
    found: set[str] = set()
    headline = False
    for line in _LINE.finditer(reply.text):
        if line.start() == 0:
            headline = not line[0].strip()
        elif headline and found and line[0].strip():
            continue
        mention = reply.by_start.get(line.end())
        if mention is None or mention.denied or not mention.by_letter:
            continue
        mark = _BEGINS.match(reply.text, mention.end)
        weak = not mention.alone and not mention.marked and mark and mark[0].strip() in (",", "-")
        single = len(mention.letters) == 1
        if single and not (mark or _own_text_follows(reply, mention)):
            continue
        if weak and reply.text[mention.start] not in "bcdefghj":
            continue  # "a", or a letter that the question uses as a word
        found |= mention.letters - {UNKNOWN} if single else mention.letters
        follower = reply.by_start.get(mark.end() + 1) if mark else None
        if follower and follower.by_letter and follower.alone and not follower.denied:
            found |= follower.letters  # "B. C."
    return _some(found - reply.denied_letters())


def _mark(reply: Reply) -> frozenset[str] | None:
    """The only letter in brackets or behind "option"."""
    marked = [m for m in reply.mentions if m.marked and not _ASKED.match(reply.text, m.end)]
    return _named(reply, marked)


def _mention(reply: Reply) -> frozenset[str] | None:
    """The only option that is named at all, by a capital letter or by its text."""
    texts = [m for m in reply.mentions if not m.by_letter and not m.short]
    letters = [m for m in reply.mentions if m.by_letter and (m.alone or m.marked)]
    words = {o.letter: f" {' '.join(o.words)} " for o in reply.options}
    named = {letter for mention in texts for letter in mention.letters}
    # The longer one is meant: "a red apple" names no "apple".
    parts = {a for a in named for b in named if words[a] != words[b] and words[a] in words[b]}
    texts = [m for m in texts if not m.letters <= parts]
    return _named(reply, texts + letters)


RULES: dict[str, Rule] = {
    "text": _text,
    "letter": _letter,
    "statement": _statement,
    "line": _line,
    "beginning": _beginning,
    "mark": _mark,
    "mention": _mention,
}


def _exactly(reply: Reply, text: str) -> frozenset[str] | None:
    """Find the option that a text is: as it stands, without case and stops, by its words."""
    plain = unmarked(text)
    numbered = _NUMBERED.match(plain)
    if numbered:
        option = next((o for o in reply.options if o.letter == numbered[1].upper()), None)
        if option and _bald(option.text) and _bald(option.text) == _bald(plain[numbered.end() :]):
            return frozenset({option.letter})
    if _BARE.fullmatch(plain):
        return None
    words = Words(plain).words
    for same in (
        [o.letter for o in reply.options if o.text and o.text == spelt(text)],
        [o.letter for o in reply.options if _bald(o.text) and _bald(o.text) == _bald(text)],
        [o.letter for o in reply.options if words and o.words == words and not numbered],
    ):
        if len(same) == 1:
            return frozenset(same)
    return None


def _bald(text: str) -> str:
    return text.strip(" \n\"'*`_").rstrip(".").strip(" \n\"'*`_").casefold()


def _meant(reply: Reply, char: str, around: str) -> frozenset[str]:
    """Return what a letter with nothing else may mean; brackets say that it is no text."""
    marked = "(" in around or ")" in around or "[" in around
    found = reply.meaning(char.upper(), marked=marked)
    if marked:
        found |= {o.letter for o in reply.options if o.is_letter and o.text == around.strip()}
    return found or frozenset({UNKNOWN})


def _at(reply: Reply, place: int) -> Mention | None:
    """Return the mention at a place, if it is not denied."""
    mention = reply.by_start.get(place)
    return None if mention is None or mention.denied else mention


def _stated(reply: Reply, place: int) -> list[tuple[int, frozenset[str]]]:
    """Read what a statement says: the text of an option up to the end of the line, or a mention."""
    end = reply.text.find("\n", place)
    line = reply.text[place : end if end >= 0 else len(reply.text)]
    longest = max(len(option.text) for option in reply.options)
    if line and len(line) < 2 * longest + 10:
        exact = _exactly(reply, line)
        if exact and not reply.denies(place):
            return [(place + len(line), exact)]
    mention = _at(reply, place)
    return [(mention.end, mention.letters)] if mention else []


def _own_text_follows(reply: Reply, mention: Mention) -> bool:
    gap = reply.text[mention.end : mention.end + 1]
    text = reply.by_start.get(mention.end + 1) if gap in (" ", JOINT) else None
    return text is not None and not text.by_letter and text.letters == mention.letters


def _named(reply: Reply, mentions: list[Mention]) -> frozenset[str] | None:
    letters = {letter for mention in mentions if not mention.denied for letter in mention.letters}
    single = {UNKNOWN} if all(len(m.letters) == 1 for m in mentions) else set()
    return _some(letters - single - reply.denied_letters(texts=True))


def _some(letters: set[str] | frozenset[str]) -> frozenset[str] | None:
    return frozenset(letters) or None
