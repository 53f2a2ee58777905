"""Ask many methods the same questions about one video, whose frames are encoded only once."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sttm.attachment import attach
from sttm.chat import PrefilledVideo, VideoChat
from sttm.chat.measured import generate_behind, sequences
from sttm.chat.prefilled import fork
from sttm.chat.prompt import common_length
from sttm.chat.records import Encoded
from sttm.errors import BudgetError, ConfigError
from sttm.evaluation.clock import FirstForward, wait
from sttm.evaluation.specs import Setting
from sttm.models.transformers_api import ATTENTION_MASK, features_argument, pretrained


@dataclass(frozen=True)
class Outcome:
    """What one setting made of one video.

    Args:
        tokens_in: video tokens in front of the reduction.
        tokens_out: behind it; of a query-aware method the mean over the questions. None where the
            method cannot reach the budget.
        texts: the answers, one per question; None where the budget cannot be reached.
        seconds: prefill and answers together.
    """

    tokens_in: int
    tokens_out: float | None
    texts: tuple[str | None, ...]
    seconds: float


@dataclass(frozen=True)
class TimedAnswer:
    """One answer, and the time that it took; seconds.

    Args:
        text: the answer.
        new_tokens: tokens of the answer, its end included.
        tokens_out: video tokens behind the reduction.
        shared: whether the prefill of the video served other questions, too.
        prefill: the forward over the video and what stands in front of it; 0 where the question
            went through in the same forward.
        first_forward: the forward over the question (with the video, if not shared).
        answering: from the question to the last token, ``first_forward`` included.
    """

    text: str
    new_tokens: int
    tokens_out: int
    shared: bool
    prefill: float
    first_forward: float
    answering: float

    @property
    def ttft(self) -> float:
        """The language model's time from video and question to the first token."""
        return self.prefill + self.first_forward


class Runner:
    """Runs settings of one model side by side.

    Args:
        model: a supported transformers video model.
        processor: its processor.
        settings: what to compare.
        layer: see `sttm.attach`.
        positions: see `sttm.attach`.
        max_new_tokens: of an answer; greedy.
        batch: most questions that are answered at once on copies of one prefill.

    Raises:
        ConfigError, UnsupportedModelError: as `sttm.attach`, for any of the settings.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        settings: Sequence[Setting],
        *,
        layer: int | None = None,
        positions: str = "auto",
        max_new_tokens: int = 6,
        batch: int = 16,
    ) -> None:
        self.model = model
        self.processor = processor
        self.layer = layer
        self.positions = positions
        self.max_new_tokens = max_new_tokens
        self.batch = batch
        self._chats: dict[Setting, VideoChat] = {}
        self._plain = VideoChat(model, processor)
        self._observer = None
        for setting in settings:
            method = setting.method
            if method is not None and "tower_attention" in method.requires:
                self._observer = self._observer or method
            if method is None:
                self._chats[setting] = self._plain
            elif not method.query_aware:
                self._chats[setting] = self._chat(method)
            else:
                attach(model, method, layer=layer, positions=positions).detach()

    def encode(self, video: Any, **sampling: Any) -> Encoded:
        """Decode and encode a video once for all settings; see `sttm.VideoChat.encode`."""
        with torch.no_grad():
            if self._observer is None:
                return self._plain.encode(video, **sampling)
            with attach(self.model, self._observer, layer=self.layer, positions=self.positions):
                return self._plain.encode(video, **sampling)

    def run(self, encoded: Encoded, setting: Setting, questions: Sequence[str]) -> Outcome:
        """Reduce and prefill an encoded video, and answer questions about it.

        Methods that do not depend on the question share one prefill; a query-aware one pays a
        prefill per question. A method that cannot reach its budget for this video (`BudgetError`)
        gives no answers.

        Raises:
            ConfigError: the method refuses the video.
        """
        start = time.perf_counter()
        texts: Sequence[str | None]
        kept: float | None
        try:
            texts, kept = self._answer(encoded, setting, questions)
        except BudgetError:
            texts, kept = [None] * len(questions), None
        except ConfigError as error:
            raise ConfigError(f"{setting}: {error}") from error
        return Outcome(encoded.tokens, kept, tuple(texts), time.perf_counter() - start)

    def answers(
        self, encoded: Encoded, setting: Setting, questions: Sequence[str]
    ) -> Iterator[TimedAnswer]:
        """Answer questions one by one, each as if it were alone, and time them.

        Methods that do not depend on the question share one prefill, as in `run`; an answer does
        not depend on the other questions of the call.

        Yields:
            an answer per question, as soon as it is there.

        Raises:
            ConfigError: the method refuses the video; BudgetError if its budget is the reason.
        """
        if setting not in self._chats:
            for question in questions:
                yield self._alone(encoded, setting, question)
            return
        with FirstForward(pretrained(self.model)) as filling:
            watched = self._chats[setting].prefill(encoded)
        for question in questions:
            with FirstForward(pretrained(self.model)) as asking:
                answer = watched.ask(question, max_new_tokens=self.max_new_tokens)
            yield TimedAnswer(
                answer.text,
                len(answer.ids),
                watched.tokens_out,
                shared=True,
                prefill=filling.seconds,
                first_forward=asking.seconds,
                answering=answer.seconds,
            )

    @property
    def chat(self) -> VideoChat:
        """The chat that reduces nothing: it encodes for all settings."""
        return self._plain

    def _answer(
        self, encoded: Encoded, setting: Setting, questions: Sequence[str]
    ) -> tuple[list[str], float]:
        if setting in self._chats:
            watched = self._chats[setting].prefill(encoded)
            return self._on_one_prefill(watched, questions), watched.tokens_out
        answered = [self._alone(encoded, setting, question) for question in questions]
        kept = sum(answer.tokens_out for answer in answered) / max(1, len(answered))
        return [answer.text for answer in answered], kept

    def _chat(self, method: Any) -> VideoChat:
        return VideoChat(
            self.model, self.processor, method, layer=self.layer, positions=self.positions
        )

    def _on_one_prefill(self, watched: PrefilledVideo, questions: Sequence[str]) -> list[str]:
        texts: list[str] = []
        for first in range(0, len(questions), self.batch):
            part = questions[first : first + self.batch]
            texts += ask_together(watched, part, max_new_tokens=self.max_new_tokens)
        return texts

    def _alone(self, encoded: Encoded, setting: Setting, question: str) -> TimedAnswer:
        """Answer with a prefill of its own."""
        start = time.perf_counter()
        method = setting.method
        assert method is not None
        with (
            attach(self.model, method, layer=self.layer, positions=self.positions) as attachment,
            FirstForward(pretrained(self.model)) as clock,
        ):
            ids = generate_alone(
                self._plain,
                encoded,
                question,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
            )
        wait()
        return TimedAnswer(
            _decode(self.processor, ids),
            len(ids),
            sum(report.tokens_out for report in attachment.reports),
            shared=False,
            prefill=0.0,
            first_forward=clock.seconds,
            answering=time.perf_counter() - start,
        )


@torch.no_grad()
def generate_alone(
    chat: VideoChat, encoded: Encoded, question: str, **generate: Any
) -> torch.Tensor:
    """Answer a question on a prefill of its own, for whatever is attached to the model.

    Args:
        chat: that encoded the video.
        encoded: the video.
        question: the only one.
        **generate: options of ``generate()``.

    Returns:
        ``(n,)`` int64, the ids of the answer.
    """
    ids = encoded.prefix.prompt_ids(chat.processor, [], question)
    out: torch.Tensor = chat.model.generate(
        **lengthen(encoded.inputs, ids),
        **features_argument(chat.adapter.modality, encoded.features),
        **generate,
    )
    return out[0, len(ids) :]


def ask_together(
    watched: PrefilledVideo, questions: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """Answer several questions at once, each in a row of its own on a copy of the prefill.

    The same as asking one by one, up to the rounding of batched matrix products: shorter questions
    are padded between the video and themselves, where no token looks.
    """
    chat = watched.chat
    prompts = [watched.prefix.prompt_ids(chat.processor, [], text) for text in questions]
    known = min(common_length(watched.ids, ids) for ids in prompts)
    if known < len(watched.ids) or len(prompts) == 1:
        # The tokenizer joined the prefill's last token with a question: not one prefix for all.
        return [watched.ask(text, max_new_tokens=max_new_tokens).text for text in questions]
    width = max(len(ids) for ids in prompts)
    ids = torch.stack([_fit(prompt, known, width) for prompt in prompts])
    mask = torch.stack([_fit(torch.ones_like(prompt), known, width) for prompt in prompts])
    offset = watched.next_position - known
    places = [_fit((torch.arange(len(p)) + offset).clamp(min=0), known, width) for p in prompts]
    cache = fork(watched.cache)
    cache.reorder_cache(torch.zeros(len(prompts), dtype=torch.long))
    with chat.reducing(watched.layer, watched.positions):
        out, _ = generate_behind(
            chat.model,
            chat.adapter,
            cache,
            ids=ids,
            mask=mask,
            positions=torch.stack(places),
            known=known,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    return [_decode(chat.processor, row[width:]) for row in sequences(out)]


def _fit(row: torch.Tensor, known: int, width: int) -> torch.Tensor:
    """Pad ``(n,)`` with zeros to ``(width,)``, behind its first ``known`` entries."""
    return torch.cat([row[:known], row.new_zeros(width - len(row)), row[known:]])


def lengthen(inputs: dict[str, torch.Tensor], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Extend the inputs of a prefix to a whole prompt ``(n,)``: what follows is plain text."""
    device, length = inputs["input_ids"].device, inputs["input_ids"].shape[1]
    longer: dict[str, torch.Tensor] = {}
    for name, value in inputs.items():
        if value.ndim == 2 and value.shape[1] == length:
            fill = int(name == ATTENTION_MASK)
            extra = value.new_full((1, len(ids) - length), fill)
            longer[name] = torch.cat([value, extra], 1)
        else:
            longer[name] = value
    longer["input_ids"] = ids[None].to(device)
    return longer


def _decode(processor: Any, ids: torch.Tensor) -> str:
    return str(processor.tokenizer.decode(ids.cpu(), skip_special_tokens=True)).strip()
