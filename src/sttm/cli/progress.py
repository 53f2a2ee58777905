"""Progress bars for the stages of watching a video; on stderr, and only on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from sttm.cli.output import notes

Tell = Callable[[str, int, int], None]  # stage, done, total


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Tell]:
    """Show one bar per stage, from its first report on.

    A stage that is one step long pulses while it runs, since nobody knows how far it is.

    Args:
        quiet: show nothing.

    Yields:
        the callback for ``VideoChat.watch(progress=...)``.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    hidden = quiet or not notes.is_terminal
    with Progress(*columns, console=notes, transient=True, disable=hidden) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=None)
            known = total if total > 1 or done else None
            bars.update(tasks[stage], completed=done, total=known)

        yield tell
