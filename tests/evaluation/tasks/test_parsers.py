"""What models write, and the letters that are read out of it."""

from dataclasses import replace

import pytest

from sttm.errors import ConfigError, UnknownNameError
from sttm.evaluation.tasks import Item, get_task

FRUIT = Item(
    "videomme", "q", "v", None, "Which?", ("Apples.", "Candles.", "Berries.", "A red apple.")
)
FIVE = Item("nextqa", "q", "v", None, "Why?", ("to eat", "to play", "to play ball", "rest", "2"))

# text, clean, published
OUTPUTS = [
    ("B", "B", "B"),
    (" b ", "B", None),
    ("B.", "B", "B"),
    ("(C)", "C", "C"),
    ("**D**", "D", "D"),
    ("D. A red apple.", "D", "D"),
    ("C) Berries", "C", "C"),
    ("B: Candles.", "B", "B"),
    ("The best answer is: C", "C", "C"),
    ("The answer is (D).", "D", "D"),
    ("The correct answer is B. Candles.", "B", "B"),
    # The fused prefixes stay: their own letters are found first.
    ("The best option is C", "C", "C"),
    ("Best answer: C", "C", "B"),
    ("Best option: D", "D", "B"),
    ("Answer: D", "D", "D"),
    # A capital anywhere counts for the published rule.
    ("Based on the video, the answer is C.", "C", "B"),
    ("Considering the frames, I would choose D.", "D", "C"),
    ("After the man leaves, option B is shown to be correct: the answer is B.", "B", "A"),
    ("Both A and B are shown. Therefore, the answer is B.", "B", "B"),
    ("At first I thought the answer is A. On reflection, the answer is D.", "D", "A"),
    ("Option C is the correct answer.", "C", "C"),
    ("B is correct because of the candles.", "B", "B"),
    ("The answer is b.", "B", None),
    ("the answer is a dog", None, None),
    ("The answer is A dog or a cat.", None, "A"),
    ("Berries.", "C", "B"),
    ("berries", "C", None),
    ("The video shows candles on a table.", "B", None),
    ("It is a red apple.", "D", None),
    ("Apples", "A", "A"),
    ("A man is walking.", None, "A"),
    ("I cannot tell.", None, None),
    ("Certainly not.", None, "C"),
    ("", None, None),
    ("   \n", None, None),
    ("A. Apples.\nB. Candles.\nC. Berries.\nD. A red apple.", None, "A"),
    ("A. Apples.\nB. Candles.\nC. Berries.\nD. A red apple.\nThe answer is C.", "C", "A"),
    ("A or B", None, "A"),
    ("The answer is A or B.", None, "A"),
    ("The answer is (B) or (C).", None, "B"),
    ("The answer is not B.", None, "B"),
    ("The answer is not B but C.", "C", "B"),
    ("The correct option is D where the apple is red.", "D", "D"),
    ("Only C fits what is shown.", "C", "C"),
    ("Option A", "A", "A"),
    ("I think it shows something.", None, None),
    ("I'd say B.", "B", "B"),
    ("Option: C", "C", "C"),
    ("The correct answer: C", "C", "C"),
    ("The correct option, C", "C", "C"),
    # Case matters.
    ("answer: C", "C", "C"),
    ("ANSWER: C", "C", "A"),
    ("c) berries", "C", None),
    ("Answer: b", "B", None),
    ("The answer is A because the apples are seen.", "A", "A"),
    ("Answer: Berries.", "C", "B"),
    ("D.A red apple.", "D", "D"),
    ("The answer is 'C'.", "C", "C"),
    ("A:", "A", "A"),
    ("In the video, A. Apples.", "A", "A"),
    ("E", None, None),
    ("The answer is E.", None, None),
    (r"So we get \boxed{C}.", "C", "C"),
    ("<think>It could be A or D.</think>B", "B", "A"),
    ("Reasoning about A...\n<answer>D</answer>", "D", "A"),
    ("The frames show a fire, and (C) fits.", "C", "C"),
    ("My final answer: **B**", "B", "B"),
    ("Answer B", "B", "A"),
    ('The correct choice would be "C".', "C", "C"),
    ("The answer to the question is C", "C", "C"),
    ("B\n\nThe person lights them in the dark.", "B", "B"),
    ("B, because the flames are visible", "B", "B"),
    ("It's neither of these.", None, None),
    # Small letters count where a mark makes them letters.
    ("b", "B", None),
    ("b.", "B", None),
    ("(b)", "B", None),
    ("option b", "B", None),
    ("Option (b)", "B", None),
    ("option b, since the flames are seen", "B", None),
    ("It must be option b because of the flames", "B", None),
    ("option b is shown", "B", None),
    ("It shows option c.", "C", None),
    ("The answer is option b.", "B", None),
    ("The answer is (b) because of the flames", "B", None),
    ("the answer is b since it burns", "B", None),
    ("b is the correct answer", "B", None),
    ("I would choose d.", "D", None),
    ("b) because of the flames", "B", None),
    ("b, because the flames are visible", "B", None),
    ("The flames are seen, so it is (b).", "B", None),
    ("option a", "A", None),
    ("option a.", "A", None),
    ("(a)", "A", None),
    ("a.", "A", None),
    ("a", "A", None),
    ("The answer is a.", "A", None),
    ("The answer is a because of the fruit", "A", None),
    ("option a is correct", "A", None),
    # ... and "a" is a word elsewhere.
    ("a man is walking.", None, None),
    ("It is a man.", None, None),
    ("The answer is a man", None, None),
    ("the option a man would like", None, None),
    ("I would choose a dog.", None, None),
    ("the answer is e.g. a dog", None, None),
    ("the answer is b-roll", None, None),
    ("the answer is b'day", None, None),
    ("plan c seems to work", None, None),
    ("option b or option c", None, None),
    ("the answer is b or c", None, None),
    ("the answer is b or a.", None, None),
    ("The answer is not b.", None, None),
    ("not option b", None, None),
    ("not (b), option c", "C", None),
    ("a. Apples.\nb. Candles.\nc. Berries.\nd. A red apple.", None, "A"),
    ("a) apples\nb) candles\nThe answer is b.", "B", None),
]


@pytest.mark.parametrize(("text", "clean", "published"), OUTPUTS)
def test_letters_are_read(text: str, clean: str | None, published: str | None) -> None:
    task = get_task("videomme")
    assert task.parse(text, FRUIT) == clean
    assert task.parse(text, FRUIT, "clean") == clean
    assert task.parse(text, FRUIT, "published") == published


def test_the_rules_differ_where_they_should() -> None:
    assert sum(clean != published for _, clean, published in OUTPUTS) > 15


def test_letters_of_the_published_rule_are_those_of_the_task() -> None:
    assert get_task("nextqa").parse("E. 2", FIVE, "published") == "E"
    assert get_task("vnbench").parse("E", FRUIT, "published") is None
    # Six for LongVideoBench, however many options there are: read, and wrong.
    assert get_task("longvideobench").parse("F", FIVE, "published") == "F"
    long = "{} the point of view of the man one cannot tell what comes next"
    assert get_task("longvideobench").parse(long.format("From"), FIVE, "published") is None
    assert get_task("longvideobench").parse(long.format("Even"), FIVE, "published") == "E"
    assert get_task("longvideobench").parse("From here", FIVE, "published") == "F"


def test_an_option_inside_another_is_not_meant() -> None:
    task = get_task("nextqa")
    assert task.parse("because he wants to play ball", FIVE) == "C"
    assert task.parse("because he wants to play", FIVE) == "B"
    assert task.parse("there are 2 of them", FIVE) == "E"
    assert task.parse("there are 25 of them", FIVE) is None


@pytest.mark.parametrize(
    ("task", "text", "letter"),
    [
        # In the order of the letters, in front of the first full stop.
        ("vnbench", "C or B. D", "B"),
        ("vnbench", "D.", "D"),
        ("vnbench", "I see. A", None),
        ("videomme", "Best answer: C", "B"),
        ("videomme", "Answer: B", "B"),
        # The character in front of the first closing bracket; without one, nothing else.
        ("mlvu", "B) Red", "B"),
        ("mlvu", "(B) Red", "B"),
        ("mlvu", "B", "B"),
        ("mlvu", "B. Red", None),
        ("mlvu", "Option B) Red", "B"),
        ("mlvu", "Blue (the sky)", None),
        ("mlvu", ") B", None),
    ],
)
def test_official_rules(task: str, text: str, letter: str | None) -> None:
    assert get_task(task).parse(text, FRUIT, "official") == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B) Red", "B"), ("B", "B"), ("(B) Red", None), ("Option B) Red", None), ("B. Red", None)],
)
def test_the_second_rule_of_mlvu(text: str, letter: str | None) -> None:
    assert get_task("mlvu").parse(text, FRUIT, "official-alternative") == letter
    with pytest.raises(ConfigError, match=r"vnbench has none .* Expected 'clean', .*'official'"):
        get_task("vnbench").parse(text, FRUIT, "official-alternative")


def test_video_mme_counts_answers_with_a_letter_only() -> None:
    task, item = get_task("videomme"), replace(FRUIT, answer="B")
    assert task.right(None, item, "official") is None
    assert task.right("C", item, "official") is False
    assert task.right("B", item, "official") is True
    assert task.right(None, item, "published") is task.right(None, item) is False
    assert get_task("mlvu").right(None, item, "official") is False


@pytest.mark.parametrize(
    ("options", "text", "letter"),
    [
        (("", "yes", "no", ""), "", None),
        (("", "yes", "no", ""), "yes", "B"),
        (("p", "q", "", "r"), "C", "C"),
        (("p", "q", "", "r"), " ", None),
        (("p", "q", "", "r"), "<think>q</think>", None),
        (("p", "q", "", "r"), "The answer is C.", "C"),
        (("p", "q", "", "r"), "...", None),
        (("p", "q", " ", "r"), "**", None),
        (("cat", "a dog", "a dog", "fish"), "a dog", None),
        (("cat", "a dog", "a dog", "fish"), "B. a dog", "B"),
    ],
)
def test_blank_and_equal_options(options: tuple[str, ...], text: str, letter: str | None) -> None:
    assert get_task("mlvu").parse(text, replace(FRUIT, options=options)) == letter


def test_a_rule_that_guesses_is_not_offered() -> None:
    with pytest.raises(ConfigError, match="nextqa has none"):
        get_task("nextqa").parse("B", FIVE, "official")


def test_an_unknown_parser_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'published'"):
        get_task("nextqa").parse("B", FIVE, "publisht")


def test_an_open_answer_is_text() -> None:
    item = Item("needle", "q", "v", None, "Where?", answer="top left")
    task = get_task("needle")
    assert task.parse(" Top left.", item) == "top left"
    assert task.parse("bottom left", item) == "bottom left"
    assert task.parse(" ", item) is None
    assert task.right(task.parse("Top Left", item), item) is True
    assert task.right(None, item) is False
