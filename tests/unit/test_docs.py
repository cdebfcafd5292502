"""The documentation says what is there: every key, and examples that work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from bootnode.config import Config, HttpSettings, NetworkSettings, TftpSettings, load_config
from bootnode.image.keys import KernelKeys, LimitKeys, RecipeFile, RepositoryKeys, RootKeys
from bootnode.image.spec import load_recipe
from bootnode.nodes import NodeEntry, NodesFile, load_nodes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
YAML_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^    (?:sudo )?(?:\.venv/bin/)?(bootnode .*?)(?: +#.*)?$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        (Config, ""),
        (NetworkSettings, ""),
        (HttpSettings, "http."),
        (TftpSettings, "tftp."),
        (NodesFile, ""),
        (NodeEntry, ""),
        (RecipeFile, ""),
        (KernelKeys, "kernel."),
        (LimitKeys, "limits."),
        (RepositoryKeys, "repositories."),
        (RootKeys, "root."),
    ],
)
def test_every_key_is_documented(model: type[BaseModel], prefix: str) -> None:
    page = "images.md" if model.__module__ == "bootnode.image.keys" else "config.md"
    text = (ROOT / "docs" / page).read_text()
    rows = set(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE))
    nested = {
        "http",
        "tftp",
        "kernel",
        "limits",
        "repositories",
        "root",
    }  # documented by the keys in them
    assert {prefix + name for name in model.model_fields if name not in nested} <= rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_examples_load(page: Path, tmp_path: Path) -> None:
    for block in YAML_BLOCK.findall(page.read_text()):
        file = tmp_path / "example.yaml"
        file.write_text(block)
        if "networks:" in block:
            assert load_config(file).networks
        elif "description:" in block:
            assert load_recipe(recipe_of(block, tmp_path / "mine")).description
        else:
            assert len(load_nodes(file))


def recipe_of(text: str, folder: Path) -> Path:
    """The recipe with what its text names beside it."""
    (folder / "overlay").mkdir(parents=True)
    (folder / "customise").touch()
    (folder / "image.yaml").write_text(text)
    return folder


def commands() -> list[str]:
    """Every `bootnode` command line that the pages show."""
    return sorted({line for page in PAGES for line in COMMAND.findall(page.read_text())})


def test_the_pages_show_commands() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize("line", commands())
def test_each_command_shown_is_understood(line: str) -> None:
    for part in line.split(" && "):
        words = shlex.split(part)
        if words[0] != "bootnode":
            continue
        # --help behind the words: argparse checks the verb, and runs nothing.
        verbs = words[1:3] if words[1] in ("image", "node", "lab") else words[1:2]
        done = subprocess.run(
            [sys.executable, "-c", "from bootnode.cli import main; main()", *verbs, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        options = [word for word in words if word.startswith("-") and words[1:3] != ["lab", "exec"]]
        assert [option for option in options if option not in done.stdout] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []
