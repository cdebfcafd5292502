"""The documentation says what is there: every key, and examples that work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from pydantic import BaseModel

from bootnode.boot.nodefiles import FileTree, NodeNetwork, Renderer
from bootnode.config import Config, HttpSettings, NetworkSettings, TftpSettings, load_config
from bootnode.image import cpio, nodefiles
from bootnode.image.keys import KernelKeys, LimitKeys, RecipeFile, RepositoryKeys, RootKeys
from bootnode.image.spec import load_recipe
from bootnode.nodekeys import StandInKeys
from bootnode.nodes import Node, NodeEntry, NodesFile, NodeTable, load_nodes

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


def test_the_template_gives_what_the_page_says() -> None:
    page = (ROOT / "docs/images.md").read_text()
    before, template, after = re.split(r"```jinja\n(.*?)```", page, flags=re.DOTALL)
    table = load_text(YAML_BLOCK.findall(before)[-1])
    text = re.findall(r"```text\n(.*?)```", after, re.DOTALL)[0]
    node = table.by_name(re.findall(r"gives (\S+) this", after)[0])
    assert node is not None
    tree = FileTree([cpio.file("etc/node.conf.j2", template.encode())])
    assert rendered(table, node, tree) == {"etc/node.conf": text}


def test_the_templates_of_compute_are_rendered_for_the_example_nodes() -> None:
    """With what the pages say that `vars` may have, and without any."""
    tree = FileTree(nodefiles.read(load_recipe(ROOT / "images/compute").node_files))
    nodes = "nodes: {a: {mac: 02:00:00:00:00:01, ip: 10.77.0.10}, b: {mac: 02:00:00:00:00:02}}"
    plain = load_text(f"defaults: {{image: compute}}\n{nodes}")
    hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
    for node in plain:
        own = "" if node.name == "a" else f"127.0.1.1 {node.name}\n"
        assert rendered(plain, node, tree) == {
            "etc/hostname": f"{node.name}\n",
            "etc/hosts": f"{hosts}{own}10.77.0.10 a\n",
            "etc/machine-id": f"{StandInKeys().machine_id(node.name)}\n",
        }
    more = "{authorized_keys: %s, ssh_host_keys: true, networkd: '[Network]'}"
    for keys, lines in (("ssh-rsa A b", "ssh-rsa A b\n"), ("[one, other]", "one\nother\n")):
        full = load_text(f"defaults: {{image: compute, vars: {more % keys}}}\n{nodes}")
        files = rendered(full, full.nodes[0], tree)
        assert files["root/.ssh/authorized_keys"] == lines
        assert files["etc/systemd/network/10-bootnode.network.d/node.conf"] == "[Network]\n"
        assert files["etc/ssh/ssh_host_ed25519_key"] == StandInKeys().ssh_host_key("a")
        assert files["etc/ssh/ssh_known_hosts"] == (
            "a,10.77.0.10 ssh-ed25519 (of-a)\nb ssh-ed25519 (of-b)\n"
        )


def load_text(text: str) -> NodeTable:
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return load_nodes(Path(file.name))


def rendered(table: NodeTable, node: Node, tree: FileTree) -> dict[str, str]:
    """The files of a node on the network that the pages have."""
    network = NodeNetwork(
        server=IPv4Address("10.77.0.1"),
        subnet=IPv4Network("10.77.0.0/24"),
        http_port=8080,
        settings=NetworkSettings(interface="eth1", dhcp="full"),
    )
    files = Renderer(table=table, networks=[network], keys=StandInKeys())
    made = files.render(tree, node, image="mine/0123456789abcdef")
    return {file.entry.path: file.entry.data.decode() for file in made}


def recipe_of(text: str, folder: Path) -> Path:
    """The recipe with what its text names beside it."""
    (folder / "overlay").mkdir(parents=True, exist_ok=True)
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
        verbs = words[1:3] if words[1] in ("image", "node", "lab", "lease") else words[1:2]
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
