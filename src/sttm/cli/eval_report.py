"""``sttm eval report`` and ``sttm eval presets``."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sttm.cli.options import JsonOption
from sttm.cli.output import command_line, note, results, say, show_json, show_table
from sttm.errors import ConfigError
from sttm.files import make_folder

if TYPE_CHECKING:
    from sttm.evaluation.rows import EvalReport
    from sttm.evaluation.runs import Run


# What is left of the tables in a narrow terminal; the files have all columns.
_NARROW = (
    *("run", "retention", "accuracy", "relative accuracy", "less all tokens", "n"),
    *("first", "second", "difference", "p (McNemar)", "questions"),
)
_WIDE = 145


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that `sttm eval run` wrote to.")
    ],
    full: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run with all tokens, if it is not among them or has other settings.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Test every two runs of a task against each other.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="Test all against this method, at the same budget."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="GROUP", help="Report also on the questions of each of its values."),
    ] = None,
    parser: Annotated[
        str | None,
        typer.Option(
            help="Read the answers anew: clean, published, official or official-alternative."
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap samples.")] = 2000,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")
    ] = Path("out/report"),
    json: JsonOption = False,
) -> None:
    """Sum up runs: accuracies with intervals, against all tokens, and beside the paper's rows.

    Writes report.md, report.json, runs.csv, accuracies.csv and accuracy.png. Runs may still be
    going on: what is there is summed up.
    """
    from sttm.evaluation.render import write_report
    from sttm.evaluation.report import make_report
    from sttm.evaluation.runs import load_runs

    runs = load_runs(folders, parser=parser)
    if compare and len(runs) == 1:
        raise ConfigError("got --compare with one run, expected two or more. Name another folder.")
    reference = None if full is None else _reference(full, runs, parser)
    made = make_report(
        runs, full=reference, compare=compare, against=against, by=by, resamples=resamples
    )
    make_folder(out)
    header = {
        "command": command_line(),
        "settings": {run.name: dict(run.settings) for run in runs},
        "runs_about": {run.name: dict(run.about) for run in runs},
        "parser": parser,
        "resamples": resamples,
    }
    files = write_report(out, made, header)
    if json:
        show_json({**header, **asdict(made), "files": [str(file) for file in files]})
        return
    _show(made)
    for file in files:
        say(f"wrote {file}")


def presets(json: JsonOption = False) -> None:
    """List the settings behind the paper's rows, for `sttm eval run --preset NAME`."""
    from sttm.evaluation.presets import list_presets

    found = list_presets()
    if json:
        show_json(found)
        return
    for preset in found:
        setting = preset.setting()
        how = [str(setting) if setting.method else "all tokens"]
        how += [f"layer {preset.layer}", preset.positions] if setting.method else []
        how += [f"newline {preset.newline}"] if preset.newline not in (None, "no_token") else []
        say(f"{preset.name:<60} {', '.join(how)}")
    for text in dict.fromkeys(preset.note for preset in found if preset.note):
        say(f"where noted: {text}")


def _reference(full: Path, runs: "list[Run]", parser: str | None) -> "Run":
    from sttm.evaluation.runs import load_runs

    known = next((run for run in runs if run.folder.resolve() == full.resolve()), None)
    found = known or load_runs([full], parser=parser)[0]
    if not found.full:
        note(f"--full: {full} did not keep all tokens: relative to {found.settings['spec']}.")
    return found


def _show(made: "EvalReport") -> None:
    from sttm.evaluation.render import NOTES, comparison_table, group_tables, sections, table

    for section in sections(made):
        show_table(*_fitting(table(made, section), _NARROW), title=str(section))
        tables = [] if section.part else group_tables(made, section)  # report.md has all
        for title, columns, lines in tables:
            if results.width >= 14 + 22 * (len(columns) - 1):
                show_table(columns, lines, title=title)
            else:
                say(f"{title}: in report.md, or in a wider terminal.")
    if made.comparisons:
        found = _fitting(comparison_table(made.comparisons), _NARROW)
        show_table(*found, title="paired comparisons")
        for one in made.comparisons:
            if one.differs:
                names = ", ".join(one.differs)
                note(f"{one.first} and {one.second} differ in {names}, too.")
    for row in made.runs:
        for text in row.troubles():
            note(f"{row.run}: {text}")
    say(NOTES)


def _fitting(
    table: tuple[list[str], list[list[str]]], narrow: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Leave out columns where the terminal is too narrow for all."""
    columns, lines = table
    if results.width >= _WIDE:
        return table
    places = [place for place, column in enumerate(columns) if column in narrow]
    return [columns[i] for i in places], [[line[i] for i in places] for line in lines]
