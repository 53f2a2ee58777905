"""A video in a model's cache, and conversations about it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import StoppingCriteriaList

from sttm.chat.measured import forward_behind, generate_behind, generation_config, sequences
from sttm.chat.prompt import Turn, common_length
from sttm.chat.records import Answer, PrefillState, fork
from sttm.chat.saved_video import save_state
from sttm.chat.shown import shown_in_order
from sttm.errors import ConfigError, UnsupportedModelError
from sttm.models.timing import now

if TYPE_CHECKING:
    from sttm.chat.session import VideoChat
    from sttm.chat.shown import Shown


class Found(NamedTuple):
    """The first videos of several, and the first tokens of their prompt."""

    videos: int = 0
    tokens: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefilledVideo(PrefillState):
    """Videos in the cache of a model: any number of questions may be asked about them.

    Args:
        chat: that the model belongs to.
        found: what a `VideoStore` had of it when it was asked for this.
    """

    chat: "VideoChat"
    found: Found = field(default_factory=Found)

    @property
    def entries(self) -> tuple[int | None, ...]:
        """Entries that each decoder layer's cache holds; None for layers that hold a state."""
        keys = [getattr(layer, "keys", None) for layer in self.cache.layers]  # states have none
        return tuple(None if key is None else int(key.shape[-2]) for key in keys)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values in the cache."""
        layers = [layer for layer in self.cache.layers if hasattr(layer, "keys")]
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def ask(self, question: str, **generate: Any) -> Answer:
        """Ask one question, by itself; other questions are not remembered.

        Args:
            question: in words.
            generate: arguments of transformers' ``generate``; greedy with at most 128 new tokens
                unless they say otherwise. With ``return_dict_in_generate=True`` what it gives is
                ``Answer.output``, e.g. the scores.

        Raises:
            ConfigError: the question is no text or holds a placeholder of the model; prompt lookup,
                an assistant model or another cache.

        Warns:
            ContextWarning: question and answer may go beyond the model's context.
        """
        return self.conversation().ask(question, **generate)

    def answer_logits(self, question: str, answer: Sequence[int]) -> torch.Tensor:
        """Return what the model thinks of an answer: its logits in front of each of the tokens.

        Args:
            question: in words.
            answer: ids of the answer's tokens, e.g. `Answer.ids`; at least one.

        Returns:
            ``(n, V)`` float32, for each token of the answer the logits over the vocabulary, given
            the tokens before it.

        Raises:
            ConfigError: the question is no text or holds a placeholder of the model.
        """
        return self.conversation().answer_logits(question, answer)

    def conversation(self) -> "Conversation":
        """Begin a conversation that remembers its turns; any number may go on side by side."""
        return Conversation(self)

    def save(self, path: str | PathLike[str]) -> None:
        """Store the reduced cache in one safetensors file (written to the end or not at all).

        Raises:
            WriteError: it cannot be written, or ``path`` is no regular file.
        """
        save_state(self, self.chat.adapter, path)


class Conversation:
    """Turns about videos, each paying only for its own tokens.

    Args:
        video: that they are about.

    Attributes:
        video: what was shown so far.
        history: (question, answer) pairs so far, those in front of the last video included.
    """

    def __init__(self, video: PrefilledVideo) -> None:
        self.history: list[Turn] = list(video.prefix.turns)
        self._show(video)

    def _show(self, video: PrefilledVideo) -> None:
        self.video = video
        self._cache = video.cache
        self._ids = video.ids

    @property
    def turns(self) -> list[Turn]:
        """The (question, answer) pairs behind the last video."""
        return self.history[len(self.video.prefix.turns) :]

    def watch(self, video: "Shown", **options: Any) -> PrefilledVideo:
        """Show another video; the conversation goes on with all of them.

        Only the new video is read: what was shown and said before is in the cache.

        Args:
            video: see :meth:`VideoChat.watch`.
            options: see there.

        Returns:
            what was shown so far, also as `video`.
        """
        with self.video.chat.lock:
            self._show(self.video.chat.watch(video, behind=self, **options))
            self.history += [step for step in shown_in_order(video) if isinstance(step, tuple)]
        return self.video

    def check_chat(self, chat: "VideoChat") -> None:
        """Refuse a chat that cannot show another video behind these.

        Raises:
            ConfigError: it is not the one that watched or loaded them, or reduces otherwise.
        """
        video = self.video
        if video.chat is not chat:
            raise ConfigError(
                "behind: got a conversation of another chat, expected one of this chat's. Let the "
                "chat watch that has what stands in front."
            )
        got, wanted = (video.layer, video.positions), (chat.layer, chat.positions)
        if video.layer is not None and got != wanted:  # it was loaded
            raise ConfigError(
                f"behind: got videos that were reduced with (layer, positions) {got}, expected "
                f"{wanted} as the chat does. Load them in a chat with {video.method}, that layer "
                "and these positions."
            )

    def ask(self, question: str, **generate: Any) -> Answer:
        """Ask the next question; see :meth:`PrefilledVideo.ask`."""
        with self.video.chat.lock:
            return self._ask(question, generate)

    def answer_logits(self, question: str, answer: Sequence[int]) -> torch.Tensor:
        """Return the logits of an answer that is given; see :meth:`PrefilledVideo.answer_logits`.

        The turn is not remembered.
        """
        chat = self.video.chat
        prompt = self.video.prefix.prompt_ids(chat.processor, self.turns, question)
        ids = torch.cat([prompt, torch.tensor(answer[:-1], dtype=prompt.dtype)])
        cache, known = self.resume(prompt)
        positions = torch.arange(len(ids)) + self.video.next_position - len(self.video.ids)
        with chat.lock, chat.reducing(self.video.layer, self.video.positions):
            return forward_behind(
                chat.model,
                chat.adapter,
                cache,
                ids=ids[None],
                positions=positions[None],
                known=known,
                last=len(answer),
            )[0]

    def _ask(self, question: str, generate: Mapping[str, Any]) -> Answer:
        chat = self.video.chat
        ids = self.video.prefix.prompt_ids(chat.processor, self.turns, question)
        cache, known = self.resume(ids)
        first = _FirstToken()
        arguments = {
            "max_new_tokens": 128,
            "do_sample": False,
            **generate,
            "stopping_criteria": StoppingCriteriaList(
                [first, *generate.get("stopping_criteria", ())]
            ),
        }
        copies = _copies(chat.adapter.model, arguments)
        if copies > 1:
            # generate() repeats the prompt for beams and samples, but not a cache it is given.
            cache.reorder_cache(torch.zeros(copies, dtype=torch.long))
        positions = torch.arange(len(ids)) + self.video.next_position - len(self.video.ids)
        start = time.perf_counter()
        with chat.reducing(self.video.layer, self.video.positions):
            out, fed = generate_behind(
                chat.model,
                chat.adapter,
                cache,
                ids=ids[None],
                mask=torch.ones_like(ids)[None],
                positions=positions[None],
                known=known,
                **arguments,
            )
        seconds = time.perf_counter() - start
        new = sequences(out)[0, len(ids) :].cpu()
        text = chat.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
        self.history.append((question, text))
        if copies == 1:
            self._cache, self._ids = cache, torch.cat([ids, new[:-1]])
        more = None if isinstance(out, torch.Tensor) else out
        return Answer(text, tuple(new.tolist()), fed, first.at - start, seconds, more)

    def resume(self, ids: torch.Tensor) -> tuple[Any, int]:
        """Fork the cache and cut it to what a new prompt shares with it.

        Args:
            ids: ``(n,)`` of the prompt.

        Returns:
            the fork, and the number of tokens that it has seen.
        """
        known = min(common_length(self._ids, ids), len(ids) - 1)
        surplus = len(self._ids) - known
        if not surplus:
            return fork(self._cache), known
        if self._cache.is_croppable:
            cache = fork(self._cache)
            cache.crop(-surplus)
            return cache, known
        # A recurrent state cannot go back: begin again behind the video.
        if common_length(self.video.ids, ids) < len(self.video.ids):
            raise UnsupportedModelError(
                "got a model with a recurrent state and a prompt that begins otherwise than what "
                "was watched, expected one that goes on from there. Watch the videos in messages "
                "of their own: with a question and its answer between them."
            )
        return fork(self.video.cache), len(self.video.ids)


def _copies(model: Any, arguments: Mapping[str, Any]) -> int:
    """Count the rows that ``generate`` makes of one prompt."""
    config, _ = generation_config(model, arguments)
    return max(config.num_beams or 1, config.num_return_sequences or 1)


class _FirstToken:
    """Notes when the first token is there; never stops anything."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if not self.at:
            self.at = now(input_ids.device)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
