"""``sttm models``: which model families are supported."""

from dataclasses import dataclass

from sttm.cli.options import JsonOption
from sttm.cli.output import show_json, show_table


@dataclass(frozen=True)
class Family:
    """What is told of a model family."""

    family: str
    model_types: tuple[str, ...]
    layer: int
    positions: str
    checkpoints: tuple[str, ...]


def models(json: JsonOption = False) -> None:
    """List the supported model families."""
    from sttm.models import list_models

    found = [
        Family(m.family, m.model_types, m.layer, m.positions, m.checkpoints) for m in list_models()
    ]
    if json:
        show_json(found)
        return
    rows = [
        (f.family, ", ".join(f.model_types), f.layer, f.positions, "\n".join(f.checkpoints))
        for f in found
    ]
    show_table(("family", "model_type", "layer", "positions", "for example"), rows)
