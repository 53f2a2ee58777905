"""nano's tokenizer, chat template and processor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaOnevisionProcessor, PreTrainedTokenizerFast
from transformers.models.llava_onevision.image_processing_llava_onevision import (
    LlavaOnevisionImageProcessor,
)
from transformers.models.llava_onevision.video_processing_llava_onevision import (
    LlavaOnevisionVideoProcessor,
)

from sttm.nano import questions as grammar
from sttm.nano.backdrop import BACKDROP_COLOURS, DIRECTIONS, PATTERNS
from sttm.nano.clips import COLOUR_NAMES, QUADRANTS
from training.model import GRID, IMAGE_SIZE

VOCABULARY = 512
PAD, IMAGE, VIDEO, START, END = "<|pad|>", "<image>", "<video>", "<|im_start|>", "<|im_end|>"
UNASKED = ("Which digit came last?", "What was the last digit?")  # only the early stages asked
SYSTEM = "You are a helpful assistant."
SIDES = ("left", "right", "above", "below")
SCENE_ANSWERS = (*BACKDROP_COLOURS, *PATTERNS, *DIRECTIONS, *SIDES)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{ message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{{ '<image>\\n' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'video' -%}
{{ '<video>\\n' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ part['text'] -}}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def prefix_text(system: bool) -> str:
    """What stands before the video tokens."""
    head = f"{START}system\n{SYSTEM}{END}\n" if system else ""
    return f"{head}{START}user\n"


def question_text(question: str, *, first: bool = True) -> str:
    """A question up to the point where the answer begins.

    Args:
        first: it follows the video; otherwise it follows an earlier answer.
    """
    lead = "\n" if first else f"\n{START}user\n"
    return f"{lead}{question}{END}\n{START}assistant\n"


def corpus() -> Iterator[str]:
    """Every sentence of the question grammar and every answer, for training the tokenizer."""
    tables = [
        value for name, value in vars(grammar).items() if name.isupper() and "TASKS" not in name
    ]
    for table in tables:
        for phrasing in table:
            for i, colour in enumerate(COLOUR_NAMES):
                text = phrasing.format(colour=colour, digit=i, a=i, b=9 - i)
                yield question_text(text)
    for sentence in UNASKED:
        yield from [question_text(sentence)] * len(COLOUR_NAMES)
    for answer in (*COLOUR_NAMES, *QUADRANTS, *SCENE_ANSWERS):
        yield from [answer] * 20
    yield from [f"system\n{SYSTEM}\nuser\n"] * 5


def build_tokenizer(sentences: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most 512 entries; every digit is a token of its own.

    Args:
        sentences: what it is trained on; None for nano's questions and answers.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, IMAGE, VIDEO, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(corpus() if sentences is None else sentences, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
        model_max_length=8192,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(
    tokenizer: PreTrainedTokenizerFast | None = None,
    side: int = IMAGE_SIZE,
    mean: float = 0.5,
    deviation: float = 0.5,
) -> LlavaOnevisionProcessor:
    """The processor: 64 tokens per frame and one newline. By default nano's.

    Args:
        tokenizer: None for nano's.
        side: of a frame, in pixels.
        mean: taken off pixels between 0 and 1.
        deviation: what the rest is divided by.
    """
    size = {"height": side, "width": side}
    scale: dict[str, Sequence[float]] = {"image_mean": [mean] * 3, "image_std": [deviation] * 3}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=[[side, side]], **scale
        ),
        tokenizer=build_tokenizer() if tokenizer is None else tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size, **scale),
        num_image_tokens=(2 * GRID) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_1",
        chat_template=CHAT_TEMPLATE,
    )


def save_processor(folder: Path) -> None:
    """Write tokenizer, processor and chat template files."""
    build_processor().save_pretrained(folder)
