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
    json: JsonOption = False,
) -> None:
    """Write the answers of a run as its benchmark's server takes them (EgoSchema)."""
    from sttm.evaluation.run.load import load_runs

    found = load_runs([run])[0]
    rule = found.task.submission
    if rule is None:
        raise ConfigError(
            f"{run}: got answers to {found.task.name}, which is scored here: `sttm eval report`. "
            "Expected those to egoschema."
        )
    answers = {name: answer.parsed for name, answer in found.answers.items()}
    without = rule.write(answers, out)
    if json:
        show_json(
            {"file": str(out), "answers": len(answers), "without": without, "left": found.left}
        )
        return
    say(f"{out}: {len(answers)} answers; hand them in at {rule.url}")
    if rule.note:
        note(rule.note)
    if without:
        note(f"{without} questions have no answer that could be read; they are handed in as -1.")
    if found.left:
        note(f"{found.left} questions have not been asked yet: repeat `sttm eval run` first.")
