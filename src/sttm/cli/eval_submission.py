"""``sttm eval submission``: the file of answers for a benchmark whose server scores them."""

from pathlib import Path
from typing import Annotated

import typer

from sttm.cli.options import JsonOption
from sttm.cli.output import note, say, show_json
from sttm.errors import ConfigError


def submission(
    run: Annotated[Path, typer.Argument(help="Folder of an `sttm eval run` of egoschema.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .csv or .json.")] = Path(
        "submission.csv"
    ),
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Write the file though questions are missing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write the answers of a run as its benchmark's server takes them (EgoSchema).

    A question that the model answered without naming an option is handed in as -1, which is wrong.
    One that was not asked, or ended in an error, is missing: the file is then written only with
    --incomplete, without it.
    """
    from sttm.evaluation.runs import load_runs

    found = load_runs([run])[0]
    rule = found.task.submission
    if rule is None:
        raise ConfigError(
            f"{run}: got answers to {found.task.name}, which is scored here: `sttm eval report`. "
            "Expected those to egoschema."
        )
    answers = {name: each.parsed for name, each in found.answers.items() if each.text is not None}
    errors = len(found.answers) - len(answers)
    total = found.task.expected.questions or len(found.answers) + found.left
    left = max(0, total - len(found.answers))
    if not incomplete and errors + left:
        raise ConfigError(
            f"{run}: got {len(answers)} answers to the {total} questions of {found.task.name} "
            f"({errors} ended in an error, {left} not asked), expected all: the server scores all. "
            "Repeat `sttm eval run` without --limit, or write what is there with --incomplete."
        )
    without = rule.write(answers, out)
    if json:
        counts = {"answers": len(answers), "without": without, "errors": errors, "left": left}
        show_json({"file": str(out), **counts})
        return
    say(f"{out}: {len(answers)} answers; hand them in at {rule.url}")
    if rule.note:
        note(rule.note)
    if without:
        note(f"{without} answers name no option; they are handed in as -1.")
    if errors + left:
        note(
            f"incomplete: {errors} of {total} questions ended in an error, {left} were not asked; "
            "they are not in the file."
        )
