"""Compare reductions of one video with the unreduced model, on one encoding of its frames."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sttm.chat import PrefilledVideo, VideoChat
from sttm.chat.records import Encoded
from sttm.errors import BudgetError, ConfigError
from sttm.evaluation.compare.questions import Question
from sttm.evaluation.specs import ALL_TOKENS, Keep, Setting
from sttm.methods import RandomTokens
from sttm.models import transformers_api as api
from sttm.models.adapter import noted_videos
from sttm.ops.reconstruction import coverage, rebuild, reconstruction_error

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModelAnswer:
    """What the unreduced model answers, greedily.

    Args:
        kind: of the question.
        question: in words.
        answer: in words.
        tokens: of the answer, its end included.
    """

    kind: str
    question: str
    answer: str
    tokens: int


@dataclass(frozen=True)
class Agreement:
    """How a reduced model goes along with the unreduced one's answer to one question.

    Args:
        kl: Kullback-Leibler divergence of the next token's distribution, unreduced from reduced, in
            nats; mean over the answer's tokens, each given the unreduced model's tokens before it.
        equal: share of the answer's tokens at which both models would say the same next.
    """

    kl: float
    equal: float


@dataclass(frozen=True)
class Measured:
    """What one method at one budget made of one video.

    Args:
        method: label; "all" for all tokens.
        keep: the budget; None where the method has its own.
        layer: the decoder layer in front of which it reduces; None for all tokens.
        tokens_out: video tokens behind it. This and all that follows is None where the method
            cannot reach the budget.
        error: ``|x - x'| / |x|`` of the layer's input, see `sttm.ops.reconstruction`.
        coverage: share of tokens whose group mean has a cosine of at least 0.9 with them.
        merge_s: deciding on the plan, masks and positions; a part of ``ttft_s``.
        ttft_s: prefill, and the first question to its first token; without the vision tower.
        agreement: one for each question.
    """

    method: str
    keep: Keep | None
    layer: int | None
    tokens_out: int | None = None
    error: float | None = None
    coverage: float | None = None
    merge_s: float | None = None
    ttft_s: float | None = None
    agreement: tuple[Agreement, ...] = ()


@dataclass(frozen=True)
class VideoComparison:
    """One video under all settings.

    Args:
        frames: that were sampled.
        tokens_in: video tokens in front of any reduction.
        encode_s: seconds for the processor and the vision tower, which all settings pay.
        answers: the unreduced model's, one for each question.
        settings: what was measured, all tokens first.
    """

    frames: int
    tokens_in: int
    encode_s: float
    answers: tuple[ModelAnswer, ...]
    settings: tuple[Measured, ...]


def compare_video(
    model: Any,
    processor: Any,
    video: Any,
    settings: Sequence[Setting],
    questions: Sequence[Question],
    *,
    layer: int | None = None,
    positions: str = "auto",
    max_new_tokens: int = 16,
    progress: Progress | None = None,
    **sampling: Any,
) -> VideoComparison:
    """Measure what methods and budgets lose of a video, by the unreduced model's own answers.

    The video is encoded once and the unreduced prompt is prefilled once; each setting is prefilled
    once for all questions. Before anything is timed, a random tenth of the tokens is run once.

    Args:
        model: a supported transformers video model.
        processor: its processor.
        video: see `sttm.VideoChat.watch`.
        settings: see `sttm.evaluation.specs.make_settings`; all tokens are always measured.
        questions: at least one.
        layer: see `sttm.attach`; by default each method reduces at its own.
        positions: see `sttm.attach`.
        max_new_tokens: of the unreduced model's answers.
        progress: told how many settings are done, of how many.
        **sampling: see `sttm.VideoChat.watch`.

    Raises:
        ConfigError: no question, or a method that depends on the question, or refuses the video.
        VideoError: the file cannot be read.
    """
    if not questions:
        raise ConfigError("questions: got none, expected at least one.")
    tell = progress or (lambda *_: None)
    reducing = check_settings(settings)
    with ExitStack() as stack:

        def chat(method: Any) -> VideoChat:
            made = VideoChat(model, processor, method, layer=layer, positions=positions)
            return stack.enter_context(closing(made))

        plain = stack.enter_context(closing(VideoChat(model, processor)))
        chats = [chat(setting.method) for setting in reducing]
        tell(0, len(chats) + 1)
        # The one that reads the tower's attention has to encode.
        wants_tower = (c for c in chats if c.method and "tower_attention" in c.method.requires)
        encoded = next(wants_tower, plain).encode(video, **sampling)
        chat(RandomTokens(keep=0.1)).prefill(encoded).ask(questions[0].text, max_new_tokens=1)
        whole = _Whole(plain, encoded, [c.layer for c in chats], questions, max_new_tokens)
        measured = [whole.measured]
        for done, (setting, each) in enumerate(zip(reducing, chats, strict=True), 1):
            tell(done, len(chats) + 1)
            measured.append(whole.compare(setting, each))
        tell(len(chats) + 1, len(chats) + 1)
    timings = encoded.timings
    return VideoComparison(
        frames=len(encoded.source.timestamps),
        tokens_in=encoded.tokens,
        encode_s=timings.process + timings.encode,
        answers=tuple(whole.answers),
        settings=tuple(measured),
    )


def check_settings(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings that reduce anything.

    Raises:
        ConfigError: a method depends on the question, or there is none.
    """
    reducing = [setting for setting in settings if setting.method is not None]
    for setting in reducing:
        method = setting.method
        if method is not None and (method.query_aware or method.decode_pruning is not None):
            raise ConfigError(
                f"methods: got {setting}, whose plan depends on the question, expected methods "
                "that share one prefill. Compare it on labelled questions, with `sttm eval run`."
            )
    if not reducing:
        raise ConfigError("got no budget below 1, expected one to compare with all tokens.")
    return reducing


class _Whole:
    """A video in the unreduced model, for others to be compared with.

    Args:
        chat: reduces nothing.
        encoded: the video.
        layers: decoder layers whose inputs are wanted.
        questions: to ask.
        max_new_tokens: of an answer.
    """

    def __init__(
        self,
        chat: VideoChat,
        encoded: Encoded,
        layers: Sequence[int | None],
        questions: Sequence[Question],
        max_new_tokens: int,
    ) -> None:
        self._encoded, self._questions = encoded, questions
        spans = chat.adapter.spans(
            encoded.inputs[api.INPUT_IDS].cpu(),
            noted_videos(encoded.features) or [],
            encoded.inputs,
        )
        self._index = [span.index for row in spans for span in row]
        wanted = sorted({layer for layer in layers if layer is not None})
        with layer_inputs(chat.adapter, wanted) as self._inputs:
            video = chat.prefill(encoded)
        asked = [video.ask(q.text, max_new_tokens=max_new_tokens) for q in questions]
        self._ids = [answer.ids for answer in asked]
        self._logits = [self._judge(video, place) for place in range(len(questions))]
        self.answers = [
            ModelAnswer(q.kind, q.text, answer.text, len(answer.ids))
            for q, answer in zip(questions, asked, strict=True)
        ]
        self.measured = Measured(
            method=ALL_TOKENS.label,
            keep=ALL_TOKENS.keep,
            layer=None,
            tokens_out=encoded.tokens,
            error=0.0,
            coverage=1.0,
            merge_s=0.0,
            ttft_s=video.timings.prefill + asked[0].ttft,
            agreement=self._agreement(video),
        )

    def compare(self, setting: Setting, chat: VideoChat) -> Measured:
        """Prefill the video under a reduction, and compare."""
        try:
            video = chat.prefill(self._encoded)
        except BudgetError:
            return Measured(setting.label, setting.keep, chat.layer)
        except ConfigError as error:
            raise ConfigError(f"{setting}: {error}") from error
        first = video.ask(self._questions[0].text, max_new_tokens=1)
        hidden = self._inputs[chat.layer or 0]
        tokens = torch.cat([hidden[index.to(hidden.device)] for index in self._index])
        pairs = zip(self._index, video.reports, strict=True)
        parts = [rebuild(hidden[i.to(hidden.device)], report.plan) for i, report in pairs]
        rebuilt = torch.cat(parts)
        return Measured(
            method=setting.label,
            keep=setting.keep,
            layer=chat.layer,
            tokens_out=video.tokens_out,
            error=reconstruction_error(tokens, rebuilt),
            coverage=coverage(tokens, rebuilt),
            merge_s=sum(report.milliseconds for report in video.reports) / 1e3,
            ttft_s=video.timings.prefill + first.ttft,
            agreement=self._agreement(video),
        )

    def _judge(self, video: PrefilledVideo, place: int) -> torch.Tensor:
        """Return the logits of the unreduced model's answer to a question."""
        return video.answer_logits(self._questions[place].text, self._ids[place])

    def _agreement(self, video: PrefilledVideo) -> tuple[Agreement, ...]:
        return tuple(
            agreement(logits, self._judge(video, place))
            for place, logits in enumerate(self._logits)
        )


def agreement(whole: torch.Tensor, reduced: torch.Tensor) -> Agreement:
    """Compare the next tokens' distributions of two models along one answer.

    Args:
        whole: ``(n, V)`` logits of the unreduced model.
        reduced: ``(n, V)`` logits of the reduced one.
    """
    one, other = whole.double().log_softmax(-1), reduced.double().log_softmax(-1)
    share = one.exp()
    divergence = torch.where(share > 0, share * (one - other), 0.0).sum(-1)
    same = whole.argmax(-1) == reduced.argmax(-1)
    return Agreement(max(0.0, float(divergence.mean())), float(same.double().mean()))


@contextmanager
def layer_inputs(adapter: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Note what some decoder layers are given in a ``with`` block, of a batch of one.

    Args:
        adapter: of the model.
        layers: of the decoder, 0-based.

    Yields:
        ``(n, C)`` hidden states of each layer, once its layer has run.
    """
    found: dict[int, torch.Tensor] = {}

    def note(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        signature = api.Signature.of(adapter.text.layers[layer])
        call = signature.bind(args, kwargs)
        found[layer] = signature.given(call, signature.names[0])[0].detach()

    def hook(layer: int) -> Any:
        return lambda _, args, kwargs: note(layer, args, kwargs)

    handles = [
        adapter.text.layers[layer].register_forward_pre_hook(hook(layer), with_kwargs=True)
        for layer in layers
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
