"""Methods and families of others on the command line, by entry point and by --plugin."""

import importlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sttm import plugins
from sttm.cli.app import _plugins_first
from sttm.errors import ConfigError
from sttm.methods import registry
from sttm.models import Adapter, list_models, register_family
from sttm.models import registry as families
from sttm.nano.model import weights_path

from .marks import needs_nano

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"
MODULE = "sttm_spaced"
Q = "Which digit appears?"

pytestmark = pytest.mark.skipif(not EXAMPLE.is_dir(), reason="no examples here")


def sttm(*arguments: object, path: Path | None = None, cwd: Path | None = None) -> Any:
    """Run the command line in a process of its own: what a plugin registers stays registered."""
    search = [str(path)] if path else []
    search += [part for part in (os.environ.get("PYTHONPATH"),) if part]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(search)}
    return subprocess.run(
        [sys.executable, "-c", "from sttm.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=cwd,
    )


def install(folder: Path, source: str, points: dict[str, dict[str, str]], name: str) -> Path:
    """Do what pip does with a pure package of one module, without a network."""
    module = next(iter(points.values()))
    file = next(iter(module.values())).partition(":")[0]
    folder.mkdir(exist_ok=True)
    (folder / f"{file}.py").write_text(source, encoding="utf-8")
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [
        "\n".join([f"[{group}]", *(f"{key} = {value}" for key, value in some.items())])
        for group, some in points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the example in it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    source = (EXAMPLE / f"{MODULE}.py").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("packages") / "site"
    return install(folder, source, project["entry-points"], project["name"])


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano under the model type of the example."""
    folder = tmp_path_factory.mktemp("model")
    for file in weights_path().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "relabelled_onevision"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_entry_points_are_listed(installed: Path) -> None:
    done = sttm("methods", "--json", path=installed)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one["summary"] for one in json.loads(done.stdout)}
    assert found["spaced"] == "Keep evenly spaced tokens; drop the others."
    done = sttm("models", "--json", path=installed)
    family = json.loads(done.stdout)[-1]
    assert family["model_types"] == ["relabelled_onevision"]
    assert family["tested"] == {"relabelled_onevision": []}


def test_without_the_package_there_is_no_such_method() -> None:
    done = sttm("ask", "c.mp4", Q, "--method", "spaced", "--keep", ".5")
    assert done.returncode == 2
    assert "unknown method 'spaced'" in done.stderr


@needs_nano
@pytest.mark.parametrize("how", ["entry point", "before", "behind"])
def test_commands_use_them(
    how: str, installed: Path, model: Path, clip: Path, tmp_path: Path
) -> None:
    """Through the entry point; and from the current folder with --plugin."""
    named = how != "entry point"
    place: dict[str, Any] = {"cwd": EXAMPLE} if named else {"path": installed}
    front = ("--plugin", MODULE) if how == "before" else ()
    back = (f"--plugin={MODULE}",) if how == "behind" else ()
    method = ("--method", "spaced", "--keep", ".25", "--max-frames", 2, "--json")

    def run(*arguments: object) -> Any:
        done = sttm(*front, *arguments, *back, **place)
        assert done.returncode == 0, (arguments, done.stderr)
        return json.loads(done.stdout)

    asked = run("ask", clip, Q, "--model", model, *method)
    assert (asked["tokens_in"], asked["tokens_out"]) == (128, 32)
    assert asked["method"] == "spaced, keep 0.25"
    if how == "behind":
        return
    assert run("show", clip, "--png", "--out", tmp_path, *method)["tokens_out"] == 32
    small = ("--scenes", "frames=2", "count=2", "--keep", ".5", ".3", "--json")
    needle = ("eval", "run", "--task", "needle", "--method", "spaced", *small)
    found = run(*needle, "--out", tmp_path / "n")["settings"]
    assert {row["method"] for row in found} == {"spaced 0.5", "spaced 0.3"}
    given = ("--model", model, "--max-frames", 2, "--out", tmp_path / "t.json", "--json")
    assert run("calibrate", clip, *given)["model"] == str(model)


@needs_nano
@pytest.mark.parametrize("named", [False, True], ids=["entry point", "--plugin"])
def test_workers_know_them(
    named: bool, installed: Path, model: Path, clip: Path, tmp_path: Path
) -> None:
    place: dict[str, Any] = {"cwd": EXAMPLE} if named else {"path": installed}
    front = ("--plugin", MODULE) if named else ()
    many = ("--model", model, "--processes", 2, "--json")
    own = tmp_path / "own.jsonl"
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes())
    rows = [
        {"id": str(i), "video": str(video), "question": Q, "options": ["x", "y"], "answer": "A"}
        for i, video in enumerate((clip, other))
    ]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ("--task", "custom", "--data-root", own, "--max-frames", 2, "--max-new-tokens", 2)
    done = sttm(
        *(
            *front,
            "eval",
            "run",
            *task,
            "--method",
            "spaced:keep=.5",
            *many,
            "--out",
            tmp_path / "e",
        ),
        **place,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["retention"] == 0.5
    few = ("--max-frames", 2, *many, "--out", tmp_path / "f")
    done = sttm(*front, "extract", clip, other, *few, **place)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["new"]) == 2


def write(folder: Path, source: str, name: str = "mine") -> Path:
    (folder / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return folder


TWICE = """
    from sttm.methods import Method, register

    @register
    class Mine(Method):
        name = "sttm"
        query_aware = False
        def plan(self, video): ...
"""
NAMELESS = """
    from sttm.methods import register
    register(int)
"""
FAMILY = """
    from sttm.models import register_family
    from sttm.models.families import Qwen2VL

    @register_family
    class Mine(Qwen2VL):
        family = "Mine"
        model_types = ("qwen2_vl",)
"""


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_module", "cannot be imported (ModuleNotFoundError: No module named 'no_s"),
        ("def f(:", "cannot be imported (SyntaxError"),
        ("1 / 0", "cannot be imported (ZeroDivisionError: division by zero)"),
        (TWICE, "method 'sttm': got Mine, but STTM has this name"),
        (NAMELESS, "expected a subclass of sttm.Method"),
    ],
)
def test_a_bad_plugin_is_one_line(source: str, told: str, tmp_path: Path) -> None:
    done = sttm("--plugin", "mine", "methods", cwd=write(tmp_path, source))
    one_line(done, "--plugin mine: ", told)


def test_a_bad_package_is_one_line(tmp_path: Path) -> None:
    for name, point, source, told in (
        ("a", "mine", TWICE, "method 'sttm': got Mine, but STTM has this name"),
        ("b", "mine:Mine", "", "cannot be imported (AttributeError"),
        ("c", "mine:no", "no = 7", "method: got 7, expected a subclass of sttm.Method"),
    ):
        points = {"sttm.methods": {"own": point}}
        path = install(tmp_path / name, textwrap.dedent(source), points, "my-package")
        one_line(sttm("methods", path=path), f"plugin 'own' of my-package ({point}): ", told)


def one_line(done: Any, where: str, told: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith(f"error: {where}")
    assert told in done.stderr


def test_a_family_twice_and_no_such_module(tmp_path: Path) -> None:
    done = sttm("--plugin", "mine", "models", cwd=write(tmp_path, FAMILY))
    assert "Mine for model type 'qwen2_vl', but Qwen2VL serves it" in done.stderr
    for name in ("no_such", "a-b", ""):
        done = sttm(f"--plugin={name}", "methods")
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert f"error: --plugin {name}" in done.stderr


def test_help_imports_no_plugin(tmp_path: Path) -> None:
    folder = write(tmp_path, "raise SystemExit('imported')")
    for command in (("--help",), ("ask", "--help"), ("--version",)):
        assert sttm("--plugin", "mine", *command, cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("given", "sorted_"),
    [
        ("ask v q --plugin m --json", "--plugin m ask v q --json"),
        ("--debug ask --plugin=m v --plugin n q", "--plugin=m --plugin n --debug ask v q"),
        ("ask v -- --plugin m", "ask v -- --plugin m"),
        ("ask --plugin", "--plugin ask"),
    ],
)
def test_plugins_come_first(given: str, sorted_: str) -> None:
    assert _plugins_first(given.split()) == sorted_.split()


def test_a_plugin_may_look_things_up_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "from sttm.methods import list_methods\nfound = list_methods()", "curious")
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(plugins, "_named", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    plugins.use(["curious"])
    registry.list_methods()
    assert len(sys.modules.pop("curious").found) >= 10


@pytest.mark.parametrize("kinds", [None, (), "qwen2_vl", ["a"], (1,)])
def test_families_say_what_they_serve(kinds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_ADAPTERS", list(families._ADAPTERS))
    monkeypatch.setattr(families, "_BY_TYPE", dict(families._BY_TYPE))
    bad = type("Bad", (Adapter,), {"family": "Bad", "model_types": kinds})
    with pytest.raises(ConfigError, match=r"expected a subclass of sttm\.models\.Adapter"):
        register_family(bad)
    good = type("Good", (Adapter,), {"family": "Good", "model_types": ("good", "better")})
    assert register_family(register_family(good)) is good
    assert list_models().count(good) == 1


def test_a_worker_elsewhere_imports_plugins_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pickled may hold a plugin's objects: it is read behind the import."""
    write(tmp_path, "def ready():\n    return 'from the plugin'", "elsewhere")
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(plugins, "_named", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    plugins.use([])
    assert plugins.WithPlugins.of(list) is list
    plugins.use(["elsewhere"])
    ready = importlib.import_module("elsewhere").ready
    travelled = pickle.dumps(plugins.WithPlugins.of(ready))
    # Another process: no such module, no such path, no such plugin.
    del sys.modules["elsewhere"]
    sys.path.remove(str(tmp_path))
    plugins.use([])
    assert pickle.loads(travelled)() == "from the plugin"
    assert plugins.named() == ("elsewhere",)
    del sys.modules["elsewhere"]
