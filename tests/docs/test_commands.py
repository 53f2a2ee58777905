"""Every ``sttm`` command of the README and the documentation is one that the parser takes."""

import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sttm.cli import app
from tests.cli.marks import needs_nano

from .pages import DOCS, commands, mentions, pages

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")

# What needs neither minutes nor a cluster; a hub's model is a tiny one here.
RUN = {
    "ask clip.mp4 'What happens first?' 'And then?' --model Qwen/Qwen2.5-VL-7B-Instruct --keep 0.3",
    "ask clip.mp4 'What happens?' 'Who?'",
    "show clip.mp4",
    "calibrate videos/ --keep 0.3 --out th.json",
    "convert tiny/llava-video out --verify",
    "eval presets",
    "eval tasks --json",
    "methods",
    "models",
}


def parse(words: list[str]) -> None:
    """Parse a whole command, without running it."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("sttm", [*words])
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def look_up(words: list[str]) -> None:
    """Find the command and the options of a mention, which may lack the rest."""
    command: Any = typer.main.get_command(app)
    flags: dict[str, bool] = {}
    following = iter(words)
    for word in following:
        for parameter in command.params:
            flags |= dict.fromkeys(parameter.opts, getattr(parameter, "is_flag", False))
        if word.startswith("-"):
            if not flags[word]:
                next(following, None)  # its value
        elif hasattr(command, "commands") and not word.isupper():
            command = command.commands[word]


@pytest.mark.parametrize("page", pages())
def test_the_commands_of_a_page_parse(page: str) -> None:
    for words in commands(page):
        parse(words)
    for words in mentions(page):
        look_up(words)


def test_a_command_that_is_wrong_is_found() -> None:
    for words in (["ask", "clip.mp4", "Who?", "--kep", "0.3"], ["eval", "walk"], ["ask"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parse(words)
    for words in (["eval", "run", "--featurs"], ["eval", "walk"]):
        with pytest.raises(KeyError):
            look_up(words)


@needs_nano
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("command", sorted(RUN))
def test_commands_run(command: str) -> None:
    words = shlex.split(command)
    assert any(words in [*commands(page), *mentions(page)] for page in pages()), "not in the docs"
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.exception) == (0, None), result.output
