"""Methods crossed with budgets: each that was given must be part of what runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from sttm.budget import written_keep
from sttm.cli.command import is_given
from sttm.errors import ConfigError

if TYPE_CHECKING:
    from sttm.evaluation.specs import Keep, Setting


def refuse_unused(
    context: typer.Context, settings: Sequence["Setting"], keeps: Sequence["Keep"]
) -> None:
    """Refuse methods or budgets of the command line that nothing runs with.

    Args:
        context: of a command with ``--methods`` and ``--keep``.
        settings: what runs.
        keeps: the budgets; 1.0 stands for all tokens.

    Raises:
        ConfigError: there are some.
    """
    runs = [setting for setting in settings if setting.method is not None]
    if is_given(context, "methods") and not runs:
        raise ConfigError(
            "got --methods with no other budget than 1, expected one below it, e.g. --keep 0.3: "
            "1 keeps all tokens, with no method. Add one, or drop --methods."
        )
    if is_given(context, "keep"):
        used = {setting.keep for setting in runs}
        unused = [written_keep(keep) for keep in keeps if keep not in used and keep != 1.0]
        if unused:
            raise ConfigError(
                f"got --keep {' '.join(unused)}, at which no method runs: each has a budget of its "
                "own. Drop it, or the budget in --methods."
            )
