"""The parser "clean": the table in the docs, kinds of answers, and what holds for any text."""

import re
import sys
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sttm.evaluation.tasks import Item
from sttm.evaluation.tasks.clean import RULES, parse_clean
from sttm.evaluation.tasks.items import LETTERS
from sttm.evaluation.tasks.mentions import Reply
from sttm.evaluation.tasks.parsers import parse_published
from sttm.evaluation.tasks.spelling import final, spelt

PAGE = Path(__file__).parents[3] / "docs/eval-tasks.md"


def _asked(*options: str, question: str = "Which is shown?") -> Item:
    return Item("custom", "q", "v", None, question, options)


def _read(text: str, *options: str) -> str | None:
    return parse_clean(text, _asked(*options))


ANIMALS = ("a cat", "a dog", "a bird", "a fish")


def _table() -> list[tuple[str, str, str | None]]:
    """Rule or nothing, example and letter, of each row with an example between headlines."""
    section = PAGE.read_text(encoding="utf-8").split("## How an answer is read")[1]
    section = section.split("`published` is the rule")[0]
    rows = re.findall(r"^\| ([^|]*?) ?\|[^|]*\| `([^`]+)` \| (\w+) \|$", section, re.MULTILINE)
    return [
        (first.strip("`") if first.startswith("`") else "", text.replace("⏎", "\n"), letter)
        for first, text, letter in ((a, b, None if c == "none" else c) for a, b, c in rows)
    ]


TABLE = _table()


def test_the_table_names_every_rule_in_its_order() -> None:
    assert [rule for rule, _, _ in TABLE if rule] == list(RULES)
    assert len(TABLE) >= len(RULES) + 10


@pytest.mark.parametrize(("rule", "text", "letter"), TABLE)
def test_the_table(rule: str, text: str, letter: str | None) -> None:
    assert _read(text, *ANIMALS) == letter
    if rule:  # it is this rule that decides, and no earlier one
        reply = Reply(final(spelt(text)), _asked(*ANIMALS))
        assert next(name for name, find in RULES.items() if find(reply) is not None) == rule


def test_the_table_of_both_parsers() -> None:
    section = PAGE.read_text(encoding="utf-8").split("`published` is the rule")[1]
    rows = re.findall(r"^\| `([^`]+)`[^|]*\| (\w+) \| (\w+) \|$", section, re.MULTILINE)
    assert len(rows) >= 9
    item = _asked("apples", "candles", "berries", "a red apple")
    for text, clean, published in rows:
        assert (parse_clean(text, item) or "none") == clean
        assert (parse_published(text, "ABCD") or "none") == published


# By kind: what models write about ANIMALS, and what is read.
KINDS: dict[str, list[tuple[str, str | None]]] = {
    "a letter, then a reason": [
        ("B\n\nExplanation: A cat is not seen.", "B"),
        ("B\nThere is a cat at first, but it leaves.", "B"),
        ("B\nThe video shows a dog, not a cat.", "B"),
        ("**B**\n\nA cat is never shown.", "B"),
        ("(B)\n\nA cat is never shown.", "B"),
        ("B.\n\nA cat is never shown.", "B"),
        ("B) a dog (not a cat)", "B"),
        ("B, no cat is seen", "B"),
        ("B — a dog", "B"),
        ("B: a dog. The cat is gone.", "B"),
        ("B a dog", "B"),
        ("A a cat", "A"),
        ("A because of the cat", "A"),
        ("The answer is B as there is no cat", "B"),
        ("The answer is B which is not a cat", "B"),
        ("Answer: B\nExplanation: a cat is seen", "B"),
        ("A. Then a man comes\nB. Then a man goes", None),
    ],
    "denied": [
        ("Not A.", None),
        ("Not B; C", "C"),
        ("Not A. B.", "B"),
        ("Not A\nB", "B"),
        ("Not A, B.", None),
        ("not A or B", None),
        ("not (b), option c", "C"),
        ("The answer isn't B, it's C", "C"),
        ("The answer isn’t B", None),
        ("The answer isnt B", None),
        ("The answer cannot be B.", None),
        ("It can't be B", None),
        ("It is (B), not (A).", "B"),
        ("B not A", "B"),
        ("B is correct not A", "B"),
        ("B rather than A", "B"),
        ("B instead of A", "B"),
        ("B is better than A", "B"),
        ("Neither A nor B", None),
        ("Neither A, B nor C", None),
        ("The answer is neither A nor B but C", "C"),
        ("All but B", None),
        ("A is wrong", None),
        ("Option C is incorrect; the correct one is D", "D"),
        ("A and C can be eliminated, leaving B.", "B"),
        ("Eliminating A, C and D leaves B.", "B"),
        ("We can rule out A, C and D. That leaves B.", "B"),
        ("The wrong answer is B", None),
        ("Incorrect: A, C\nCorrect: B", "B"),
        ("B doesn't match", None),
        ("B, however tempting, is wrong", None),
        ("I doubt it is B", None),
        ("You might think the answer is A, but that's wrong.", None),
        ("You might think the answer is A, but that's wrong. It's B.", "B"),
        ("The answer is A. No, it's not A. It's B.", "B"),
        ("B or not B", None),
        ("weder A noch B", None),
        ("The answer is not A, it is B.", "B"),
        ("It's not A, C or D", None),
        ("It shows B, not C or D", "B"),
        ("It is not a cat.", None),
        ("It's not a cat, it's a dog", "B"),
        ("A cat is not seen", None),
        ("No, B.", "B"),
        ("There is no doubt that the answer is B.", "B"),
        ("~~A~~ B", "B"),
    ],
    "several": [
        *((text, None) for text in ("A, B", "B, D", "B; D", "A, C and D", "A/B", "A, B.", "N/A.")),
        *((text, None) for text in ("A & B", "A+B", "A-C", "A B", "AB", "B/W", "n/a", "A. B. C.")),
        ("Both A and B", None),
        ("Both A and B are correct", None),
        ("I think it's either A or B", None),
        ("B, or maybe C", None),
        ("It's B (or C)", None),
        ("The answer is A and B", None),
        ("The answer is a cat or a dog.", None),
        ("<answer>A or B</answer>", None),
        ("\\boxed{A} or \\boxed{B}", None),
        ("A: B", None),
        ("A B C D", None),
        ("The options are A, B, C, and D. I choose B.", "B"),
        ("The answer is B; C is wrong", "B"),
        ("The answer is B, and C is wrong", "B"),
        ("B; it is a dog", "B"),
        ("a dog (B)", "B"),
        ("The answer is A. The answer is B.", "B"),
    ],
    "thoughts that weigh all": [
        ("A is unlikely, C doesn't fit, D is out. B matches what is shown.", "B"),
        ("Option A: wrong\nOption B: correct\nOption C: wrong", "B"),
        ("A) a cat - incorrect\nB) a dog - correct\nC) a bird - incorrect", "B"),
        ("Option A shows a cat. Option B shows a dog. Therefore, B.", "B"),
        ("A? No. B? Yes. The answer is B", "B"),
        ("A is the answer? Who knows.", "A"),
        ("Is it A or B? Is the answer A?", None),
        ("At first I thought A, but the answer is B", "B"),
        ("<think>The answer is A", None),
        ("One option is A, another is B", None),
        ("None of the above", None),
        ("A is the answer? No, B.", "B"),
        ("B. Actually, C.", "C"),
        ("**B. a dog**\n\n- **A. a cat** – not seen\n- **C. a bird** – not seen", "B"),
        ("**B**: a dog\n\nWhy not the others:\n- A: no cat\n- C: no bird", "B"),
        ("- A. a cat\n- B. a dog", None),
    ],
    "forms": [
        ("**Answer:** (B) a dog", "B"),
        ("### Final Answer: **B. a dog**", "B"),
        ("The answer is:\n\n**B**", "B"),
        ('```json\n{"answer": "B", "reason": "a cat is seen"}\n```', "B"),
        ("$\\boxed{\\text{B}}$", "B"),
        ("The answer is A. <answer>E</answer>", None),
        ("<b>B</b>", "B"),
        ("B<|im_end|>", "B"),
        ("> B", "B"),
        ("- B", "B"),
        ("\ufeffB\r\n", "B"),
        ("I'm going with B.", "B"),
        ("B fits best", "B"),
        ("La réponse est B", "B"),
        ("Die Antwort ist nicht B.", None),
    ],
    "words": [
        ("A Man in the park", None),
        ("A forest", None),
        ("The video shows a man. A butterfly appears.", None),
        ("The cat (A) is right of the dog (B)", None),
        ("in B.C. times", None),
        ("A man 在走路", None),
        *((text, None) for text in ("A+", "+B", "B-roll", "D-Day", "A-list", "B's", "3D", "R&B")),
        *(
            (text, None)
            for text in ("He follows plan B", "It is full of vitamin C", "Person A left")
        ),
        ("Person B is right behind him, and plan B is correct.", None),
    ],
    "scripts without blanks": [
        *(
            (text, "B")
            for text in ("答案是B。", "选B", "选项B是正确的", "答えはBです", "답은 B입니다")
        ),
        *(
            (text, "B")
            for text in ("Ｂ", "（Ｂ）", "【B】", "「B」", "Ⓑ", "🅱", "𝐁", "答案：Ｂ", "正解はB")
        ),
        *((text, None) for text in ("不是B", "答案不是B", "B不对", "B是错误的", "Bではありません")),
        *((text, None) for text in ("A或B", "A和B", "A、B", "A 또는 B", "B가 아닙니다", "选A或B")),
        ("正确答案为C", "C"),
        ("不是B，是C", "C"),
        ("不是B而是C", "C"),
        ("Bではなく、Cです", "C"),
        ("B가 아니라 C입니다", "C"),
        ("选B，不选A", "B"),
        ("答案：B。因为A不对", "B"),
        ("选项A是错的，选项B是对的", "B"),
    ],
}


@pytest.mark.parametrize(
    ("text", "letter"), [case for cases in KINDS.values() for case in cases], ids=repr
)
def test_kinds(text: str, letter: str | None) -> None:
    assert _read(text, *ANIMALS) == letter


# Options that differ by signs, are letters, or are words that rules look for.
OPTIONS: list[tuple[tuple[str, ...], list[tuple[str, str | None]]]] = [
    (("C", "C++", "C#", "D"), [("C++", "B"), ("C#.", "C"), ("The answer is C++.", "B")]),
    (("C", "C++", "C#", "D"), [("**C++**", "B"), ("(C)", "C"), ("C", None), ("D", "D")]),
    (("A", "A+", "A-", "B"), [("A+", "B"), ("A-", "C"), ("A", "A"), ("B", None), ("(B)", "B")]),
    (("5", "-5", "10", "-10"), [("-5", "B"), ("5", "A"), ("10.", "C"), ("It is −10 degrees", "D")]),
    (("5", "-5", "10", "-10"), [("It is minus 5", "B"), ("–5", "B"), ("B", "B")]),
    (("+", "-", "x", "/"), [("-", "B"), ("+", "A"), ("The answer is -.", "B"), ("'/'", "D")]),
    (("$50", "50%", "50", "8"), [("$50", "A"), ("50%.", "B"), ("It costs $50.", "A"), ("50", "C")]),
    (("3:1", "31", "1:3", "13"), [("3:1", "A"), ("31", "B"), ("The ratio is 1:3.", "C")]),
    (("3.5", "35", "1,000", "1000"), [("3.5.", "A"), ("35", "B"), ("1,000", "C"), ("1000", "D")]),
    (("x²", "x2", "yes!", "yes?"), [("x²", "A"), ("x2", "B"), ("yes!", "C"), ("yes", None)]),
    (("B", "A", "D", "C"), [("(B)", "B"), ("B", None), ("B. A", "B"), ("option D", "D")]),
    (("E", "F", "G", "H"), [("E", "A"), ("The answer is G.", "C"), ("A", "A"), ("(H)", None)]),
    (("nan", "None", "N/A", "none of these"), [("None", "B"), ("N/A", "C"), ("nan.", "A")]),
    (("There is no dog", "never"), [("There is no dog.", "A"), ("The answer is never", "B")]),
    (("vitamin A", "vitamin D", "vitamin C"), [("It's vitamin D. See the label.", "B")]),
    (("cat", "a cat"), [("A. cat", "A"), ("A) cat", "A"), ("B. a cat", "B"), ("a cat", "B")]),
    (("the answer", "is", "not", "letter"), [("The answer is (C).", "C"), ("option B", "B")]),
    (("C eats", "C sleeps"), [("C washes dishes", None), ("A", "A")]),
    (("C", "is eating", "C reads"), [("C reads", "C"), ("The answer is (C).", "C")]),
    (
        ("猫", "狗", "鱼"),
        [("答案是狗", "B"), ("答案是狗熊", None), ("有一条鳄鱼", None), ("狗，不是猫", "B")],
    ),
    (("红色的车", "蓝色的车"), [("视频里是蓝色的车", "B"), ("不是红色的车", None)]),
    (
        ("고양이", "개"),
        [("고양이가 있어요", "A"), ("답은 개입니다", "B"), ("답은 개구리입니다", None)],
    ),
    (
        tuple(f"thing {i}" for i in range(10)),
        [("I think it's J", "J"), ("I", "I"), ("B or I", None)],
    ),
]


@pytest.mark.parametrize(
    ("options", "text", "letter"), [(o, *case) for o, cases in OPTIONS for case in cases], ids=repr
)
def test_options_that_are_easily_mistaken(
    options: tuple[str, ...], text: str, letter: str | None
) -> None:
    assert _read(text, *options) == letter


# What holds for any options and letters.

FAST = settings(max_examples=120, deadline=None, print_blob=True)
WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
# Words that are no letters and occur in none of the sentences below.
SEEN = (
    "apple",
    "candle",
    "berry",
    "river",
    "17",
    "3.5",
    "-4",
    "50%",
    "C++",
    "猫",
    "红色",
    "고양이",
    "two-dogs",
)
NOUNS = st.lists(st.sampled_from(SEEN), min_size=2, max_size=8, unique=True)


@st.composite
def _asked_for(draw: st.DrawFn, options: st.SearchStrategy[list[str]]) -> tuple[Item, str]:
    item = _asked(*draw(options))
    return item, draw(st.sampled_from(item.letters))


ANY = _asked_for(st.lists(WORDS, min_size=2, max_size=len(LETTERS)))
PLAIN = _asked_for(NOUNS)


@FAST
@given(ANY)
@example((_asked("answer", "is", "The", "(A)"), "B"))
def test_a_letter_in_brackets_is_stated(asked: tuple[Item, str]) -> None:
    item, letter = asked
    assume(all("answer" not in option.casefold() for option in item.options if len(option) > 6))
    for text in (f"The answer is ({letter}).", f"Answer: ({letter})", f"**Answer:** ({letter})"):
        assert parse_clean(text, item) == letter


STATED = (
    "{}", "{}.", "({})", "The answer is {}.", "Answer: {}", "answer: ({})", "Option {}",
    "I'd say {}.", "The correct option is {}", "{} is correct.", "So it must be {}.", "答案是{}。",
    "选{}", "答えは{}です", "{}\n\nThis is what the frames show.", "Let me think.\n\n{}",
    "The frames show it: {}.", "<think>hm</think>{}", "<answer>{}</answer>", "\\boxed{{{}}}",
    "{}: see the frames", "{} because it is seen", '{{"answer": "{}"}}', "Final answer:\n{}",
)  # fmt: skip
WRAPPED = (
    "**{}**", "*{}*", "`{}`", "__{}__", "  {}\n", "\n\n{}\r\n", "\ufeff{}", "\u3000{}\u3000",
    "> {}", "### {}", "<p>{}</p>", "{}</s>", "<think>A or B, not C</think>\n{}",
)  # fmt: skip
BRACKETS = (
    "（{}）",
    "【{}】",
    "「{}」",
    "『{}』",
    "［{}］",
    "({})",
    "[{}]",
    '"{}"',
    "“{}”",
    "**{}**",
)


def _wide(letter: str) -> str:
    return chr(ord(letter) + 0xFEE0)


@FAST
@given(PLAIN, st.sampled_from(STATED), st.sampled_from(WRAPPED), st.sampled_from(BRACKETS))
def test_wrapping_changes_nothing(
    asked: tuple[Item, str], stated: str, wrapped: str, bracket: str
) -> None:
    item, letter = asked
    assert parse_clean(stated.format(letter), item) == letter
    assert parse_clean(wrapped.format(stated.format(letter)), item) == letter
    assert parse_clean(stated.format(_wide(letter)), item) == letter
    for inner in (letter, _wide(letter)):
        if "({})" not in stated:
            assert parse_clean(stated.format(bracket.format(inner)), item) == letter


DENIALS = (
    "Not {}.", "not {}", "The answer is not {}.", "The answer isn't {}.", "It cannot be {}",
    "It can't be {}!", "It isn’t {}", "{} is wrong.", "{} is not correct", "{} isn't right",
    "Option {} is incorrect.", "{} can be ruled out.", "We can eliminate {}.",
    "{} does not fit the video", "I don't think it's {}.",
    "I do not believe that the answer is {}", "It is never {}", "Neither {} nor the other",
    "anything but {}", "{}: wrong", "{} (incorrect)", "{} ❌", "Everything except {}", "不是{}",
    "答案不是{}。", "{}不对", "{}是错的", "不选{}", "{}ではない", "{}가 아닙니다",
    "Die Antwort ist nicht {}.", "The wrong answer is {}",
)  # fmt: skip


@FAST
@given(
    PLAIN, st.sampled_from(DENIALS), st.sampled_from(("{}", "({})", "[{}]", "**{}**", "option {}"))
)
def test_a_denied_letter_never_comes_out(asked: tuple[Item, str], denial: str, form: str) -> None:
    item, letter = asked
    text = denial.format(form.format(letter))
    assert parse_clean(text, item) is None
    other = next(one for one in "BCA" if one != letter)
    assume(other in item.letters)
    assert parse_clean(f"{text}\nThe answer is {other}.", item) == other
    assert parse_clean(f"The answer is {other}. {text}", item) == other
    assert parse_clean(f"{other}\n\n{text}", item) == other
    assert parse_clean(f"The answer is {letter}. {text}", item) is None


@FAST
@given(PLAIN, st.sampled_from(DENIALS))
def test_a_denied_text_never_comes_out(asked: tuple[Item, str], denial: str) -> None:
    item, letter = asked
    text = item.options[item.letters.index(letter)]
    assume("Option" not in denial)
    assert parse_clean(denial.format(text), item) != letter


JOINERS = (
    ", ", "; ", "/", " / ", " or ", " and ", ", or ", ", and ", " & ", "&", "+", " + ", " | ",
    "、", "和", "或", "と", "か", "와 ", " 또는 ", "，", " or maybe ", " as well as ", " and/or ",
    " or option ", "-", " ", "\n",
)  # fmt: skip
SEVERAL = (
    "{}", "{}.", "({})", "The answer is {}.", "Answer: {}", "I think it's {}", "Either {}",
    "**{}**", "答案是{}", "Both {} are right", "<answer>{}</answer>", "Option {}", "not sure: {}",
)  # fmt: skip


@FAST
@given(PLAIN, st.data(), st.sampled_from(JOINERS), st.sampled_from(SEVERAL))
def test_two_letters_are_none(
    asked: tuple[Item, str], data: st.DataObject, joiner: str, around: str
) -> None:
    item, letter = asked
    other = data.draw(st.sampled_from([one for one in item.letters if one != letter]))
    for form in ("{}", "({})", "**{}**"):
        text = form.format(letter) + joiner + form.format(other)
        assert parse_clean(around.format(text), item) is None


PIECES = st.one_of(
    st.text(max_size=8),
    st.sampled_from([*STATED, *DENIALS, *JOINERS, *WRAPPED, "A", "(B)", "\ud800", "\0", "a cat"]),
)


@FAST
@given(ANY, st.lists(PIECES, max_size=8).map("".join))
def test_any_text_is_read(asked: tuple[Item, str], text: str) -> None:
    item, _ = asked
    read = parse_clean(text, item)
    assert read is None or read in item.letters
    assert parse_clean(text, item) == read


UNITS = (
    "A", "A ", "A, ", "A or ", "A/", "A'", "(A)", "not A ", "not ", "B is ", "B, aaaa, is ", "(",
    "[", "'", "\n", " ", "\t", "\r\n", "\u3000", "_", "a_", "*", "~", "$", "`", "<b", "{",
    "\\boxed{", "<think>", "</think>", "<answer>", "The answer is ", "answer to ", "so ",
    "option: ", "a cat ", "x y ", "+-", "1.", "答案", "是B", "é", "e\u0301", "\u0301\u0327",
    "\ud800", "\0", "😀", "Ａ", "aaaaaly ",
)  # fmt: skip
LONGEST = (
    "A or ",
    "not A ",
    "The answer is ",
    "\n",
    "(",
    "é",
    "\\boxed{",
    "<think>",
    "\u0301\u0327",
)


@pytest.mark.parametrize("unit", UNITS, ids=repr)
def test_long_texts_take_time_in_proportion(unit: str) -> None:
    """Twice the text takes about twice the calls; an expression that backtracks would not end."""
    item = _asked("a cat", "B", "x y x y", "a dog")

    def calls(size: int) -> int:
        count = 0

        def counted(frame: FrameType, event: str, argument: object) -> None:
            nonlocal count
            count += 1

        text = unit * (size // len(unit))
        before = sys.getprofile()
        sys.setprofile(counted)
        try:
            parse_clean(text, item)
        finally:
            sys.setprofile(before)
        return count

    few, many = calls(1000), calls(2000)
    assert many < 2.5 * few + 1000
    size = 100_000 if unit in LONGEST else 20_000
    read = parse_clean(f"The answer is {unit * (size // len(unit))} B", item)
    assert read is None or read in item.letters
