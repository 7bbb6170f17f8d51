"""The words are true: settings in one place, every command and method documented, the README's Python as written works."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from torch import nn

import explorer
from explorer import cli, maps, serving
from explorer.influence import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names, booleans as the command line writes them."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def test_the_server_is_set_up_in_one_way() -> None:
    text = (ROOT / ".streamlit" / "config.toml").read_text()
    assert flat(tomllib.loads(text)) == serving.SETTINGS
    settings = [line for line in text.splitlines() if "=" in line]
    assert all("  # " in line for line in settings), "each key has its reason beside it"


def test_every_command_and_method_is_in_the_readme() -> None:
    for name, command in cli.main.commands.items():
        assert command.hidden or f"explorer {name}" in README, name
    for name in METHODS:
        assert f"`{name}`" in README


def test_the_command_lines_of_the_readme_parse() -> None:
    lines = re.findall(r"^\.venv/bin/explorer (.*)$", README, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        name, *words = shlex.split(line, comments=True)
        command = cli.main.commands[name]
        with click.Context(command) as context:
            command.parse_args(context, list(words))


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_s_python_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "umap", lambda features, seed, progress: maps.pca(features))
    monkeypatch.setattr(serving, "serve", lambda *args, **options: 0)
    monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path))
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "model": nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3)),
        "x_train": torch.randn(60, 4),
        "y_train": torch.arange(60) % 3,
        "x_test": torch.randn(20, 4),
        "y_test": torch.arange(20) % 3,
    }
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code) == 1
    exec(code[0], names)
    documented = re.search(r"ranked: `(.*?)`", README, re.DOTALL)
    assert documented is not None
    assert list(names["table"].columns) == re.split(r",\s+", documented[1])
    assert {"unit", "stats"} <= set(names["table"].attrs)
    assert {"damping", "residual"} <= set(names["table"].attrs["stats"])
    assert len(names["run"].table("queries")) == 20


def test_the_version_is_the_package_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert explorer.__version__ == project["version"]
    assert f"## {explorer.__version__}" in (ROOT / "CHANGELOG.md").read_text()
