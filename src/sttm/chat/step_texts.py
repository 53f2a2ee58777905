"""The text that a processor writes between the time steps of a video."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sttm.chat.prompt import Messages, frames_per_step, open_prompt
from sttm.errors import UnsupportedModelError
from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter
from sttm.video import Sampling, Video


def timed_video(frames: np.ndarray[Any, Any], times: Sequence[float], rate: float) -> Video:
    """Return frames as a video whose processor tells their own times.

    Args:
        frames: ``(T, H, W, 3)`` uint8 RGB.
        times: seconds of each.
        rate: sampled frames per second.
    """
    numbers: Any = tuple(round(time * rate) for time in times)
    total: Any = len(frames)
    unit = rate
    if any(number / rate != time for number, time in zip(numbers, times, strict=True)):
        # Seconds in place of numbers: the processor's quotient is the time itself.
        numbers, total, unit = tuple(times), len(frames) / rate, 1.0
    return Video(
        frames=frames,
        timestamps=tuple(times),
        indices=numbers,
        duration=len(frames) / rate,
        fps=unit,
        total_frames=total,
        path="",
        sampling=Sampling(fps=rate),
    )


class StepTexts:
    """What stands between time steps, such as timestamps, marks or numbers.

    The processor itself writes it around frames of as few pixels as it takes.

    Args:
        adapter: the model's family.
        processor: the model's processor.
        system: the system prompt, or None.
        messages: that hold the video.
        rate: sampled frames per second.
        frame: ``(1, H, W, 3)`` uint8 RGB, the first.

    Raises:
        UnsupportedModelError: what stands around a video depends on its length.
    """

    def __init__(
        self,
        adapter: Adapter,
        processor: Any,
        system: str | None,
        messages: Messages,
        rate: float,
        frame: np.ndarray[Any, Any],
    ) -> None:
        self._adapter, self._processor = adapter, processor
        self._system, self._messages, self._rate = system, messages, rate
        self._step = frames_per_step(processor)
        self._known: list[torch.Tensor] = []  # of a video from its first step on, if numbers count
        one, two = (self._prompt(np.repeat(frame, n * self._step, 0)) for n in (1, 2))
        if not torch.equal(one[: self._places(one)[0]], two[: self._places(two)[0]]):
            raise UnsupportedModelError(
                f"got {type(processor).__name__} for a stream, whose text in front of a video "
                "tells how long it is, expected one that does not. Use VideoChat.watch() on the "
                "recorded video."
            )
        self.is_none = bool((self._places(two).diff() == 1).all())
        self._counts = False
        if not self.is_none:
            times = [i / rate for i in range(3 * self._step)]
            texts = (self._written(part)[0][-1] for part in (times, times[self._step :]))
            self._counts = not torch.equal(*texts)

    def between(
        self, before: Sequence[float], times: Sequence[float], steps: int
    ) -> list[torch.Tensor]:
        """Return the ids in front of each of the next steps; none in front of the first of all.

        Args:
            before: times of the frames of the step before; none if there is none.
            times: of the frames of the next steps.
            steps: how many there were before.
        """
        count = -(-len(times) // self._step)
        nothing = [torch.empty(0, dtype=torch.long)]
        if self.is_none:
            return nothing * count
        if self._counts:
            ahead = steps + count
            if len(self._known) < ahead:
                ahead = max(ahead, 2 * len(self._known))  # not anew for every step that comes
                frames = [i / self._rate for i in range(ahead * self._step)]
                self._known = nothing + self._written(frames)[0]
            return self._known[steps : steps + count]
        return (nothing if not steps else []) + self._written([*before, *times])[0]

    def check(self, texts: Sequence[torch.Tensor], times: Sequence[float]) -> None:
        """Compare texts with those of a whole video.

        Args:
            texts: in front of each step, and behind the last.
            times: of all frames.

        Raises:
            IncompatibleTransformersError: they differ.
        """
        if self.is_none:
            return
        between, behind = self._written(times)
        for got, whole in zip(texts[1:], (*between, behind), strict=True):
            if not torch.equal(got, whole):
                words = [repr(self._processor.tokenizer.decode(ids)) for ids in (got, whole)]
                raise api.mismatch(
                    f"{type(self._processor).__name__} that writes {words[1]} into a whole video",
                    f"{words[0]} as into a part of it",
                )

    def _written(self, times: Sequence[float]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Let the processor write a video of frames at these times.

        Args:
            times: seconds of each.

        Returns:
            the ids between its steps, and those behind the last.
        """
        video = self._processor.video_processor
        side = getattr(video, "patch_size", 4) * getattr(video, "merge_size", 1)  # absent: any
        ids = self._prompt(np.zeros((len(times), side, side, 3), np.uint8), times, resize=False)
        places = self._places(ids)
        per_step = len(places) // -(-len(times) // self._step)
        first, last = places[per_step::per_step], places[per_step - 1 :: per_step]
        between = [ids[end + 1 : start] for end, start in zip(last.tolist(), first.tolist())]
        return between, ids[last[-1] + 1 :]

    def _prompt(
        self,
        frames: np.ndarray[Any, Any],
        times: Sequence[float] | None = None,
        *,
        resize: bool = True,
    ) -> torch.Tensor:
        times = times or [i / self._rate for i in range(len(frames))]
        video = timed_video(frames, times, self._rate)
        made = open_prompt(self._processor, video, self._system, self._messages, resize=resize)
        ids: torch.Tensor = made[1][api.INPUT_IDS][0]
        return ids

    def _places(self, ids: torch.Tensor) -> torch.Tensor:
        return self._adapter.placeholders(ids[None])[0].nonzero().squeeze(1)
