"""``sttm models``: which model families are supported."""

from dataclasses import dataclass
from importlib.metadata import version

from sttm.cli.options import JsonOption
from sttm.cli.output import say, show_json, show_table


@dataclass(frozen=True)
class Family:
    """What is told of a model family.

    Args:
        tested: for each ``model_type`` the releases of transformers in which its tests pass.
    """

    family: str
    model_types: tuple[str, ...]
    layer: int
    positions: str
    checkpoints: tuple[str, ...]
    tested: dict[str, tuple[str, ...]]


def models(json: JsonOption = False) -> None:
    """List the supported model families."""
    from sttm.models import list_models
    from sttm.models.versions import tested_versions, versions_for

    found = [
        Family(
            m.family,
            m.model_types,
            m.layer,
            m.positions,
            m.checkpoints,
            {kind: versions_for(kind) for kind in m.model_types},
        )
        for m in list_models()
    ]
    if json:
        show_json(found)
        return
    rows = [
        (f.family, ", ".join(f.model_types), f.layer, f.positions, "\n".join(f.checkpoints))
        for f in found
    ]
    show_table(("family", "model_type", "layer", "positions", "for example"), rows)
    say(f"transformers {version('transformers')} is installed.")
    say(f"Tested: {', '.join(tested_versions())}.")
    for family in found:
        for kind, releases in family.tested.items():
            if not releases:  # a plugin's: what it was tested with is not known here
                continue
            missing = [one for one in tested_versions() if one not in releases]
            if missing:
                say(f"{kind}: not with {', '.join(missing)}.")
