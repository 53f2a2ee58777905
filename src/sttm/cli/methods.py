"""``sttm methods``: which reduction methods there are."""

from sttm.cli.options import JsonOption
from sttm.cli.output import show_json, show_table


def methods(json: JsonOption = False) -> None:
    """List the reduction methods."""
    from sttm.methods import list_methods

    found = list_methods()
    if json:
        show_json(found)
        return
    rows = [
        (
            m.name,
            "yes" if m.query_aware else "no",
            ", ".join(m.requires) or "-",
            "-" if m.default_layer is None else str(m.default_layer),
            m.summary,
        )
        for m in found
    ]
    show_table(("name", "query-aware", "requires", "layer", "what it does"), rows)
