"""What a server is asked to do: which method, and how many tokens it leaves of a video."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import sttm
from sttm.budget import check_keep, token_budget
from sttm.errors import ConfigError
from sttm.methods import Method, get_method

KEY = "sttm"  # in --hf-overrides
KEEP = "sttm_keep"  # in mm_processor_kwargs
NUM_TOKENS = "sttm_num_tokens"  # travels with a video to the worker
PREFIX = "STTM"  # of an architecture's name


@dataclass(frozen=True)
class Reduction:
    """How a server reduces its videos.

    Args:
        name: the method's name in the registry.
        options: its options but ``keep``, by name.
        keep: the budget of every video: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: the method or an option does not exist, or vLLM cannot have it.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    keep: float | int

    def __post_init__(self) -> None:
        check_keep(self.keep, f"{KEY}.keep")
        for option, value in self.options:
            if value is None or option == "budget_scope":
                raise ConfigError(
                    f"{KEY}.{option}: got {value!r}, expected no such option in vLLM: every video "
                    "is reduced by itself, to any count. Leave it out."
                )
        self._check_method(get_method(self.name, **dict(self.options), keep=self.keep))

    def _check_method(self, method: Method) -> None:
        reason = ""
        if method.query_aware:
            reason = "depends on the question, which a cached video cannot"
        elif method.requires:
            reason = f"needs {', '.join(sorted(method.requires))}, which vLLM does not give"
        if reason:
            raise ConfigError(
                f"{KEY}.method: got {self.name!r}, which {reason}. Expected another method, e.g. "
                "'sttm'."
            )

    @classmethod
    def read(cls, hf_config: Any, rate: float | None) -> "Reduction | None":
        """Read what a server was started with.

        Args:
            hf_config: the model's configuration, with ``--hf-overrides`` in it.
            rate: ``--video-pruning-rate``.

        Returns:
            None if sttm was not asked for: the server is then vLLM's own.

        Raises:
            ConfigError: it was asked for without a rate, or as the class says.
        """
        names = getattr(hf_config, "architectures", None) or ()
        given = getattr(hf_config, KEY, None)
        if given is None and not any(name.startswith(PREFIX) for name in names):
            return None
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"--hf-overrides: got {KEY}={given!r}, expected an object such as "
                f'{{"{KEY}": {{"method": "sttm"}}}}, or {{"{KEY}": {{}}}}.'
            )
        if not rate:
            raise ConfigError(
                f"--video-pruning-rate: got {rate!r} with {KEY} in --hf-overrides, expected a rate "
                "above 0: the share of tokens to remove, which also switches vLLM's own part on."
            )
        options = dict(given)
        name = options.pop("method", "sttm")
        keep = options.pop("keep", float(1 - Decimal(str(rate))))
        return cls(name, tuple(sorted(options.items())), keep)

    def of_request(self, kwargs: Mapping[str, Any]) -> "Reduction":
        """Return what holds for one request: its own budget, or the server's.

        Args:
            kwargs: the request's ``mm_processor_kwargs``.

        Raises:
            ConfigError: ``sttm_keep`` is no budget.
        """
        keep = kwargs.get(KEEP)
        return self if keep is None else replace(self, keep=check_keep(keep, KEEP))

    def count(self, num_tokens: int) -> int:
        """Return how many of a video's ``num_tokens`` tokens are left: ``floor(keep * N)``."""
        return token_budget(self.keep, num_tokens)

    def method(self, count: int) -> Method:
        """Build the method that leaves ``count`` tokens."""
        return get_method(self.name, **dict(self.options), keep=count)

    @property
    def fingerprint(self) -> str:
        """What the features of a reduced video depend on, besides the video and the model."""
        return f"sttm {sttm.__version__} {self.name} {self.options} {self.keep!r}"
