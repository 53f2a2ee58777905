"""Attach a reduction method to a transformers model, and take it off again without a trace."""

from typing import Any

from sttm.methods.base import Method
from sttm.models.adapter import Positions
from sttm.models.configuration import ReductionConfig
from sttm.models.hooks import ModelHooks
from sttm.models.registry import adapter_for
from sttm.models.report import VideoReport
from sttm.models.versions import warn_if_untested

__all__ = ["Attachment", "VideoReport", "attach"]


def attach(
    model: Any, method: Method, *, layer: int | None = None, positions: str = "auto"
) -> "Attachment":
    """Reduce every video that passes through ``model``, in front of one decoder layer.

    The model's own code stays in use: only hooks are added, and removed by
    :meth:`Attachment.detach` or at the end of a ``with`` block.

    Args:
        model: a transformers video model, e.g. ``LlavaOnevisionForConditionalGeneration``, or one
            that PEFT or another module wraps.
        method: decides which tokens become one, e.g. ``sttm.STTM(keep=0.3)``.
        layer: decoder layer (0-based) whose input is reduced. The default is the method's
            ``default_layer``, where its authors reduce; for methods without one it is 2, as
            published for 7B models (published for 72B: 0). In a smaller model it is at most the
            last layer.
        positions: "survived" (tokens keep their rotary positions), "reassigned" (renumbered
            without gaps), "merged" (cos and sin averaged), or "auto": what the family does best.

    Raises:
        ConfigError: layer or policy out of range, or something is attached already.
        UnsupportedModelError: no adapter serves the model, or the method reads an attention that
            this model does not have.
        IncompatibleTransformersError: the model is not called as the hooks expect. The forward
            passes of an attached model raise it too.

    Warns:
        UntestedVersionWarning: once, if transformers is newer than every tested release.

    Source: STTM, sections 3 and 4.3. Differs: decoding goes on without a gap in the positions.
    """
    warn_if_untested()
    hooks = ModelHooks.hold(adapter_for(model))
    try:
        return Attachment(hooks, hooks.configure(method, layer, positions))
    except BaseException:
        hooks.release()
        raise


class Attachment:
    """A reduction that is in force on a model. Use as a context manager, or call :meth:`detach`.

    Attributes:
        method: the reduction method.
        layer: the decoder layer in front of which videos are reduced.
        positions: the position policy in force.
        prompt_score_layer: the decoder layer whose attention the method reads; None if it reads
            none.
        decode_score_layer: the decoder layer that decides what the method hides while answering;
            None if it hides nothing.

    Several threads may call the model at the same time, like any model: what happens in one forward
    pass is known to its thread alone. ``reports`` are then those of whichever came last.
    """

    def __init__(self, hooks: ModelHooks, config: ReductionConfig) -> None:
        self._hooks: ModelHooks | None = hooks
        self._reduction = hooks.attach(config)
        self.method: Method = config.method
        self.layer: int = config.layer
        self.positions: Positions = config.positions
        self.prompt_score_layer: int | None = config.prompt_score_layer
        self.decode_score_layer: int | None = config.decode_score_layer

    @property
    def reports(self) -> list[VideoReport]:
        """What was done to each video of the latest forward that carried any.

        In order of (row, place in the prompt).
        """
        return self._reduction.reports

    @property
    def attached(self) -> bool:
        """Whether it is in force."""
        return self._hooks is not None

    def detach(self) -> None:
        """Take it off; the model is what it was before. Harmless when called again."""
        hooks, self._hooks = self._hooks, None
        if hooks is not None:
            hooks.detach()
            hooks.release()

    def __enter__(self) -> "Attachment":
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()
