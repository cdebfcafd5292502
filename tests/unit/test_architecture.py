"""The levels of the package: imports go down only, and pure code stays pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LEVELS = {
    0: """
        errors addresses checksum yamlmarks
        dhcp/packet dhcp/options dhcp/optionfield dhcp/values dhcp/pxe dhcp/registry dhcp/arp
        tftp/packet ndp/packet image/cpio
    """,
    1: """
        config nodes
        boot/chains boot/client boot/filenames boot/grub boot/plan boot/ipxe boot/journal
        boot/nodefiles
        boot/templates boot/uki boot/usage
        dhcp/book dhcp/pool dhcp/leases dhcp/subnet dhcp/throttle
        dhcp/foreign dhcp/replies dhcp/responder dhcp/writer tftp/transfer
        image/keys image/retention image/spec lab/config
    """,
    2: """
        clock control files net nodekeys notify state
        dhcp/prober dhcp/server dhcp/watch tftp/server ndp/server
        web/app web/leases web/nodefiles web/sendfile web/status
        image/archive image/build image/changes image/debian image/difference image/distributions
        image/durable image/foreign image/grubserved image/kernel image/making
        image/modules image/nodefiles image/packages
        image/programs image/ramdisk image/rocky image/rootfs image/run image/served image/shell
        image/source image/steps
        image/store
        lab/acceleration lab/console lab/control lab/host lab/process lab/qemu
        lab/requirements lab/vm
    """,
    3: """
        daemon networks
        lab/demo lab/lab lab/supervisor
        cli/check cli/common cli/image cli/lab cli/lease cli/node cli/nodefiles cli/progress
        cli/shell cli/status cli/users cli/versions
    """,
}
"""Every module of the package and its level; the `__init__.py` of folders have none."""

IMPURE = frozenset({"asyncio", "socket", "time", "random", "subprocess", "aiohttp", "logging"})
"""What no module of level 0 or 1 may import."""
FILE_READERS = frozenset({"config", "nodes", "yamlmarks", "image/spec", "image/cpio", "lab/config"})
"""The pure modules that may read the files that they are given."""
FOREIGN = frozenset({"pefile", "scapy", "tftpy"})
"""Other people's implementations, which only tests and `rehearse` use."""

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bootnode"
LEVEL = {name: level for level, names in LEVELS.items() for name in names.split()}
PURE = sorted(name for name, level in LEVEL.items() if level <= 1)
MODULES = sorted(
    str(path.relative_to(PACKAGE).with_suffix(""))
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


def imports(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """The full names of what a file imports; without those for type checkers only."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_modules(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, as LEVELS has them."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "bootnode":
            # `from bootnode.dhcp import options` and `from bootnode.dhcp.packet import Packet`.
            for candidate in ("/".join(parts[1:]), "/".join(parts[1:-1])):
                if candidate in LEVEL:
                    yield candidate
                    break


def test_every_module_has_its_level() -> None:
    assert sorted(LEVEL) == MODULES, "a new module goes into LEVELS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    path = PACKAGE / f"{module}.py"
    upwards = {name for name in own_modules(path) if LEVEL[name] > LEVEL[module]}
    assert not upwards


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_no_socket_loop_or_clock(module: str) -> None:
    path = PACKAGE / f"{module}.py"
    outside = {name.partition(".")[0] for name in imports(path, at_run_time=False)}
    assert not outside & IMPURE
    if module not in FILE_READERS:
        assert not outside & {"pathlib", "os", "io", "shutil", "tempfile"}
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "input", "print", "exec", "eval"}


@pytest.mark.parametrize(("one", "other"), [("dhcp", "tftp"), ("dhcp", "web"), ("tftp", "web")])
def test_protocols_do_not_know_each_other(one: str, other: str) -> None:
    for here, there in ((one, other), (other, one)):
        for path in (PACKAGE / here).glob("*.py"):
            assert not {name for name in own_modules(path) if name.startswith(f"{there}/")}, path


@pytest.mark.parametrize("module", MODULES)
def test_nothing_rests_on_other_implementations(module: str) -> None:
    path = PACKAGE / f"{module}.py"
    assert not {name.partition(".")[0] for name in imports(path, at_run_time=False)} & FOREIGN


@pytest.mark.parametrize("module", PURE)
def test_every_pure_module_has_a_test_file_of_its_own(module: str) -> None:
    folder, _, name = module.rpartition("/")
    assert (ROOT / "tests" / "unit" / folder / f"test_{name}.py").is_file()
