"""``sttm eval tasks`` and ``sttm eval validate``: which benchmarks there are, and their files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sttm.cli.options import JsonOption
from sttm.cli.output import note, say, show_json, show_table
from sttm.cli.task_items import refuse_data_root

if TYPE_CHECKING:
    from sttm.evaluation.tasks.validate import Validation

EXIT_WRONG = 1
SHOWN = 5  # problems of a kind; --json has all
KINDS = {
    "file": "files missing or unreadable",
    "row": "malformed rows",
    "duplicate": "duplicates",
    "answer": "answers missing, or not among the options",
    "video": "videos without a file",
}


def tasks(json: JsonOption = False) -> None:
    """List the benchmarks; --json tells more about each."""
    from sttm.evaluation.tasks import get_task, list_tasks

    found = [get_task(name) for name in list_tasks()]
    if json:
        show_json(
            [
                {
                    "name": task.name,
                    "version": task.version,
                    "title": task.title,
                    "description": task.description,
                    "source": task.source,
                    "notes": task.notes,
                    "questions": task.expected.questions,
                    "videos": task.expected.videos,
                    "fps": task.frames.fps,
                    "max_frames": task.frames.max_frames,
                    "metrics": {n: m.description for n, m in task.metrics_by_name.items()},
                    "groups": task.groups,
                    "prompts": list(task.prompts),
                    "parser": task.parsing.default,
                    "needs_data": not task.made,
                }
                for task in found
            ]
        )
        return
    rows = [
        (
            task.name,
            task.expected.questions or "-",
            task.expected.videos or "-",
            task.frames.max_frames,
            ", ".join(task.metrics_by_name),
        )
        for task in found
    ]
    show_table(("name", "questions", "videos", "frames", "metrics"), rows)


def validate(
    task: Annotated[
        str, typer.Argument(help="A task of `sttm eval tasks`, or your own YAML file.")
    ],
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", help="Folder that holds the data sets, or the task's own."),
    ] = None,
    videos: Annotated[
        bool, typer.Option("--videos/--no-videos", help="Look for the videos too.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Check the files of a benchmark and tell how to get them; exit code 1 if one is wrong."""
    from sttm.evaluation.tasks import get_task
    from sttm.evaluation.tasks.validate import validate as check

    wanted = get_task(task)
    refuse_data_root(wanted, data_root)
    found = check(wanted, data_root, videos=videos)
    if json:
        show_json(found)
    else:
        _show(found)
    if not found.ok:
        raise typer.Exit(EXIT_WRONG)


def _show(found: "Validation") -> None:
    looked = "" if found.found is None else f", {found.found} with their file"
    where = f" in {found.folder}" if found.folder else ""
    count = f"{found.questions} sound questions about {found.videos} videos"
    say(f"{found.task}: {count}{looked}{where}")
    for kind, title in KINDS.items():
        problems = [problem for problem in found.problems if problem.kind == kind]
        if problems:
            _show_some(title, [f"{problem.where}: {problem.text}" for problem in problems])
    if found.differences:
        _show_some("other numbers than published", found.differences)
        note("a part, another edition or half a download: its results are not the published ones.")
    for text in found.notes:
        note(text)
    if found.commands:
        say("\nto get the files:")
        for line in found.commands:
            say(f"  {line}")
    say("\nnothing is wrong" if found.ok else f"\nproblems in all: {len(found.problems)}")


def _show_some(title: str, lines: Sequence[str]) -> None:
    say(f"\n{title}: {len(lines)}")
    for line in lines[:SHOWN]:
        say(f"  {line}")
    if len(lines) > SHOWN:
        say(f"  and {len(lines) - SHOWN} more; --json lists all")
