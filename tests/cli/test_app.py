import json
import subprocess
import sys
from pathlib import Path

import pytest

import sttm
from sttm.cli.output import show_error, show_table
from sttm.errors import VideoError

from .conftest import Run

COMMANDS = ("demo", "ask", "show", "calibrate", "methods", "models")
BENCHMARKS = ("needle", "speed")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_explains_itself(run: Run, name: str) -> None:
    result = run("bench", name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert name in run("bench", "--help").stdout


def test_the_application_lists_its_commands(run: Run) -> None:
    shown = run("--help").stdout
    assert all(command in shown for command in (*COMMANDS, "bench"))


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith(f"sttm {sttm.__version__} ")


def test_methods_are_listed(run: Run) -> None:
    found = json.loads(run("methods", "--json").stdout)
    assert {"name", "summary", "query_aware", "needs"} == set(found[0])
    assert "sttm" in {method["name"] for method in found}
    assert "quadtree" in run("methods").stdout


def test_models_are_listed(run: Run) -> None:
    found = json.loads(run("models", "--json").stdout)
    assert {"family", "model_types", "layer", "positions", "checkpoints"} == set(found[0])
    assert any("qwen2_vl" in family["model_types"] for family in found)
    assert "qwen2_vl" in run("models").stdout


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


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, sttm.cli\n"
        "sys.exit(bool({'transformers', 'matplotlib', 'av', 'jinja2', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0
