import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

import sttm
from sttm.cli import app
from sttm.cli.output import command_line, show_error, show_table
from sttm.errors import VideoError

from .conftest import Run
from .marks import needs_nano

Words = tuple[str, ...]


def find_commands(command: Any, path: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Walk the application: every command and group that is shown, with the words that call it."""
    yield path, command
    for name, inner in _shown(command).items():
        yield from find_commands(inner, (*path, name))


def _shown(group: Any) -> dict[str, Any]:
    found = getattr(group, "commands", {}).items()
    return {name: command for name, command in found if not command.hidden}


ALL = dict(find_commands(typer.main.get_command(app)))
GROUPS = [path for path, command in ALL.items() if hasattr(command, "commands")]
COMMANDS = [path for path in ALL if path not in GROUPS]


def test_the_application_was_walked() -> None:
    assert {(), ("bench",), ("eval",)} <= set(GROUPS)
    assert {("ask",), ("convert",), ("bench", "speed"), ("eval", "run")} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(run: Run, path: Words) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert ALL[path].help
    assert "--json" in result.stdout


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: " ".join(path) or "sttm")
def test_every_group_lists_its_commands(run: Run, path: Words) -> None:
    shown = run(*path, "--help").stdout
    assert all(name in shown for name in _shown(ALL[path]))


def test_options_are_explained() -> None:
    silent = [
        (" ".join(path), option.name)
        for path, command in ALL.items()
        for option in command.params
        if not option.help
    ]
    assert not silent


@pytest.mark.parametrize("given", [["eval", "run", "--out", "a b"], ["--json"]])
def test_the_command_line_can_be_given_again(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sttm", *given])
    assert shlex.split(command_line()) == ["sttm", *given]


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith(f"sttm {sttm.__version__} ")


def test_methods_are_listed(run: Run) -> None:
    found = json.loads(run("methods", "--json").stdout)
    assert {"name", "summary", "query_aware", "requires", "default_layer"} == set(found[0])
    assert "sttm" in {method["name"] for method in found}
    shown = run("methods").stdout
    assert "quadtree" in shown
    cells = [[cell.strip() for cell in line.split("│")[1:]] for line in shown.splitlines()]
    layers = {row[0]: row[3] for row in cells if len(row) > 3}
    assert (layers["dycoke"], layers["framefusion"], layers["fastv"]) == ("0", "1", "2")
    assert layers["octree"] == "-"


def test_models_are_listed(run: Run) -> None:
    found = json.loads(run("models", "--json").stdout)
    assert {"family", "model_types", "layer", "positions", "checkpoints", "tested"} == set(found[0])
    qwen = next(family for family in found if "qwen2_vl" in family["model_types"])
    assert {"5.19.0", "5.24.0"} <= set(qwen["tested"]["qwen2_vl"])
    shown = run("models").stdout
    assert "qwen2_vl" in shown
    assert f"transformers {version('transformers')} is installed." in shown
    assert "Tested: 5.19.0, " in shown
    assert "smolvlm: not with 5.20.1, 5.20.2." in shown


def test_an_error_is_one_line_and_exits_with_2(run: Run, tmp_path: Path) -> None:
    result = run("ask", tmp_path / "none.mp4", "What is this?")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_debug_lets_the_error_through(run: Run, tmp_path: Path) -> None:
    result = run("--debug", "ask", tmp_path / "none.mp4", "What is this?")
    assert isinstance(result.exception, VideoError)


def test_an_interrupt_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sttm.methods.list_methods", interrupt)
    assert run("methods").exit_code == 130


def test_names_are_neither_markup_nor_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_error(VideoError("[red]a[/red]\n  b\x1b[31m.mp4"))
    show_table(("name",), [("[bold]c\x07",)])
    shown = capsys.readouterr()
    assert shown.err == "error: [red]a[/red] b\N{REPLACEMENT CHARACTER}[31m.mp4\n"
    assert "[bold]c\N{REPLACEMENT CHARACTER}" in shown.out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, sttm.cli\n"
        "heavy = {'torch', 'numpy', 'transformers', 'matplotlib', 'av', 'jinja2', 'PIL'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules)) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.stderr.strip() == b""


@needs_nano
def test_no_deprecated_name_is_used(clip: Path, tmp_path: Path) -> None:
    """A FutureWarning of the library is an error here, and its log of deprecations empty."""
    for command in (
        ["demo", "--frames", "4", "--repeats", "1", "--out", str(tmp_path)],
        ["ask", str(clip), "Which digit is shown?", "And now?"],
        ["show", str(clip), "--out", str(tmp_path), "--png"],
    ):
        main = ["-c", "from sttm.cli import main; main()"]
        run = [sys.executable, "-W", "error::FutureWarning", *main, *command]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "deprecated" not in done.stderr
        assert "Warning" not in done.stderr
