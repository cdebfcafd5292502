from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bootnode.errors import ConfigError
from bootnode.image import spec
from bootnode.image.keys import Fetch, RootFormat
from bootnode.image.spec import (
    MAX_BASES,
    KernelSpec,
    Limits,
    Repository,
    System,
    init_folder,
    load_recipe,
    recipes_folder,
)
from bootnode.nodes import Loader

MINIMAL = "description: x\nkernel: {package: linux-image-amd64, modules: [virtio_net]}\n"


SYSTEM = MINIMAL + "distribution: debian\nrelease: bookworm\n"
ROCKY = """\
description: x
kernel: {package: kernel-core, modules: [virtio_net]}
distribution: rocky
release: "8"
packages: [NetworkManager, libstdc++, python3_x]
"""
REPOSITORIES = """\
repositories:
  - {name: base, url: "https://mirror.example/$releasever/BaseOS", key: keys/rocky}
  - {name: extra, url: "http://mirror.example/extra", key: "https://mirror.example/key"}
  - {name: local, url: "file:///srv/rpms", key: none}
"""


def recipe_in(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "image.yaml").write_text(text)
    return folder


def test_the_failsafe_recipe_is_read() -> None:
    recipe = load_recipe(recipes_folder() / "failsafe")
    assert recipe.name == "failsafe"
    assert recipe.kernel.package == "linux-image-amd64"
    assert {"virtio_net", "e1000e", "ext4"} <= set(recipe.kernel.modules)
    assert (init_folder(recipe) / "init").is_file()


def test_the_failsafe_recipe_for_arm64_is_the_other_one_with_another_kernel() -> None:
    recipe = load_recipe(recipes_folder() / "failsafe-arm64")
    assert (recipe.architecture, recipe.loader) == ("arm64", Loader.UKI)
    assert recipe.kernel.package == "linux-image-arm64"
    assert {"virtio_net", "e1000e", "ext4", "genet"} <= set(recipe.kernel.modules)
    assert "vmw_pvscsi" not in recipe.kernel.modules


def test_a_recipe_leaves_out_modules_of_its_base_and_a_third_brings_them_back(
    tmp_path: Path,
) -> None:
    recipe_in(tmp_path / "base", MINIMAL.replace("[virtio_net]", "[virtio_net, ext4, xfs]"))
    text = "description: x\nbase: base\nkernel: {without: [ext4], modules: [btrfs]}\n"
    own = recipe_in(tmp_path / "own", text)
    assert load_recipe(own).kernel.modules == ("virtio_net", "xfs", "btrfs")
    third = recipe_in(
        tmp_path / "third",
        text.replace("ext4", "xfs").replace("base: base", "base: own").replace("btrfs", "ext4"),
    )
    assert load_recipe(third).kernel.modules == ("virtio_net", "btrfs", "ext4")


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_in(tmp_path / "tiny", MINIMAL))
    assert recipe.kernel_args == ()
    assert recipe.kernel.load == ()
    assert recipe.architecture == "amd64"


def test_a_recipe_without_a_distribution_has_no_system(tmp_path: Path) -> None:
    assert load_recipe(recipe_in(tmp_path / "tiny", MINIMAL)).system is None


def test_folders_of_node_files_add_up(tmp_path: Path) -> None:
    base = recipe_in(tmp_path / "base", MINIMAL + "node_files: files\n")
    (base / "files").mkdir()
    assert load_recipe(base).node_files == (base / "files",)
    own = recipe_in(tmp_path / "own", "description: x\nbase: base\nnode_files: mine\n")
    (own / "mine").mkdir()
    assert load_recipe(own).node_files == (base / "files", own / "mine")
    plain = recipe_in(tmp_path / "plain", MINIMAL)
    assert load_recipe(plain).node_files == ()


def test_the_compute_recipe_is_read() -> None:
    recipe = load_recipe(recipes_folder() / "compute")
    assert recipe.system is not None
    assert (recipe.system.distribution, recipe.system.release) == ("debian", "bookworm")
    assert (recipe.system.format, recipe.system.fetch) == (RootFormat.SQUASHFS, Fetch.INIT)
    assert {"systemd", "systemd-sysv", "udev"} <= set(recipe.system.packages)


def test_the_recipe_for_rocky_is_read() -> None:
    recipe = load_recipe(recipes_folder() / "compute-rocky8")
    assert recipe.system is not None
    assert (recipe.system.distribution, recipe.system.release) == ("rocky", "8")
    assert all(repository.key is not None for repository in recipe.system.repositories)
    assert recipe.system.format is RootFormat.SQUASHFS
    assert {"systemd", "systemd-udev", "NetworkManager"} <= set(recipe.system.packages)


OF_DEBIAN_ALONE = ("/systemd/network/", "/sshd_config.d/", "/ssh.service.d/", "online", "getty@")
OF_BOTH = sorted(
    str(path.relative_to(recipes_folder() / "compute"))
    for folder in ("overlay", "node_files")
    for path in (recipes_folder() / "compute" / folder).rglob("*")
    if path.is_file() and not any(part in str(path) for part in OF_DEBIAN_ALONE)
)


@pytest.mark.parametrize("name", OF_BOTH)
def test_what_both_distributions_have_is_the_same(name: str) -> None:
    debian, rocky = recipes_folder() / "compute" / name, recipes_folder() / "compute-rocky8" / name
    assert rocky.read_bytes() == debian.read_bytes()
    assert rocky.stat().st_mode == debian.stat().st_mode


def test_the_head_node_has_all_that_the_server_needs() -> None:
    recipe = load_recipe(recipes_folder() / "headnode")
    assert recipe.system is not None
    assert recipe.system.has_bootnode
    makefile = (recipes_folder().parent / "Makefile").read_text()
    (needed,) = re.findall(r"^SERVER_PACKAGES := (.*)$", makefile, re.MULTILINE)
    assert set(needed.split()) <= set(recipe.system.packages)


def test_a_whole_system(tmp_path: Path) -> None:
    text = SYSTEM + "packages: [systemd]\nmirror: http://mirror.example/debian\n"
    text += "overlay: files\ncustomise: script\nroot: {format: tar.xz, fetch: ramdisk}\n"
    folder = recipe_in(tmp_path / "tiny", text)
    (folder / "files").mkdir()
    (folder / "script").touch()
    assert load_recipe(folder).system == System(
        distribution="debian",
        release="bookworm",
        mirror="http://mirror.example/debian",
        repositories=(),
        packages=("systemd",),
        overlays=(folder / "files",),
        scripts=(folder / "script",),
        format=RootFormat.TAR_XZ,
        fetch=Fetch.RAMDISK,
    )


def test_a_system_from_repositories(tmp_path: Path) -> None:
    folder = recipe_in(tmp_path / "tiny", ROCKY + REPOSITORIES)
    (folder / "keys").mkdir()
    (folder / "keys/rocky").touch()
    system = load_recipe(folder).system
    assert system is not None
    assert (system.distribution, system.release, system.mirror) == ("rocky", "8", None)
    assert system.packages == ("NetworkManager", "libstdc++", "python3_x")
    base = "https://mirror.example/$releasever/BaseOS"
    key = "https://mirror.example/key"
    assert system.repositories == (
        Repository(name="base", url=base, key=folder / "keys/rocky"),
        Repository(name="extra", url="http://mirror.example/extra", key=key),
        Repository(name="local", url="file:///srv/rpms", key=None),
    )


def test_repositories_are_added_to_those_of_the_base(tmp_path: Path) -> None:
    base = recipe_in(tmp_path / "base", ROCKY + REPOSITORIES)
    (base / "keys").mkdir()
    (base / "keys/rocky").touch()
    more = "description: x\nbase: base\nrepositories:\n"
    more += "  - {name: mine, url: 'file:///srv/mine', key: mine.key}\n"
    own = recipe_in(tmp_path / "own", more)
    (own / "mine.key").touch()
    system = load_recipe(own).system
    assert system is not None
    keys = [repository.key for repository in system.repositories]
    assert keys == [base / "keys/rocky", "https://mirror.example/key", None, own / "mine.key"]


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("{}", (RootFormat.SQUASHFS, Fetch.INIT)),
        ("{format: erofs}", (RootFormat.EROFS, Fetch.INIT)),
        ("{fetch: ramdisk}", (RootFormat.SQUASHFS, Fetch.RAMDISK)),
        ("{format: cpio}", (RootFormat.CPIO, Fetch.RAMDISK)),
        ("{format: cpio, fetch: ramdisk}", (RootFormat.CPIO, Fetch.RAMDISK)),
    ],
)
def test_formats_and_who_fetches_them(
    tmp_path: Path, root: str, expected: tuple[RootFormat, Fetch]
) -> None:
    system = load_recipe(recipe_in(tmp_path / "tiny", f"{SYSTEM}root: {root}\n")).system
    assert system is not None
    assert (system.format, system.fetch) == expected


def test_an_init_beside_the_recipe_is_taken(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_in(tmp_path / "tiny", MINIMAL))
    assert init_folder(recipe) == recipes_folder() / "init"
    (tmp_path / "init").mkdir()
    assert init_folder(recipe) == tmp_path / "init"


def test_installed_recipes_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spec, "__file__", str(tmp_path / "site/bootnode/image/spec.py"))
    assert recipes_folder().parts[-3:] == ("share", "bootnode", "images")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "description: x\nkernl: {}\nkernel:\n  modules: []\n  lod: []\n",
            [
                ":2:1: kernl: unknown key 'kernl' (did you mean 'kernel'?)",
                ":5:3: kernel.lod: unknown key 'lod' (did you mean 'load'?)",
            ],
        ),
        (
            MINIMAL + "kernel_args: [quiet, 'a #b', '', 5]\n",
            [
                ":3:22: kernel_args[1]: '#b' would end the line in iPXE",
                ":3:30: kernel_args[2]: '' is not a kernel argument",
                ":3:34: kernel_args[3]: 5 is not text (put quotes around it)",
            ],
        ),
        (
            "description: x\nkernel: {package: -rf, modules: ['../x', 'a b']}\n",
            [
                ":2:19: kernel.package: '-rf' is not a package name",
                ":2:34: kernel.modules[0]: '../x' is not a module name or pattern",
                ":2:42: kernel.modules[1]: 'a b' is not a module name or pattern",
            ],
        ),
        (
            MINIMAL + "release: bookworm\npackages: []\nroot: {}\n",
            [
                ":3:1: release: needs a `distribution`",
                ":4:1: packages: needs a `distribution`",
                ":5:1: root: needs a `distribution`",
            ],
        ),
        (MINIMAL + "distribution: debian\n", [":1:1: release: is missing (want one such as"]),
        (
            MINIMAL + "distribution: slackware\nrelease: ../x\nmirror: x\npackages: [a b]\n",
            [
                ":3:15: distribution: 'slackware' is not known (want 'debian' or 'rocky')",
                ":4:10: release: '../x' is not a release (want",
                ":5:9: mirror: 'x' is not a mirror (want",
                ":6:12: packages[0]: 'a b' is not a package name",
            ],
        ),
        (
            SYSTEM + "overlay: none\ncustomise: nothing\nroot: {format: cpio, fetch: init}\n"
            "node_files: none\n",
            [
                ":5:10: overlay: there is no folder",
                ":6:12: customise: there is no file",
                ":7:29: root.fetch: only the kernel unpacks a cpio",
                ":8:13: node_files: there is no folder",
            ],
        ),
        (
            SYSTEM + "overlay: ../other\ncustomise: /bin/sh\nroot: {format: zip, ftch: x}\n",
            [
                ":5:10: overlay: '../other' is not a path beside image.yaml",
                ":6:12: customise: '/bin/sh' is not a path beside image.yaml",
                ":7:16: root.format: 'zip' is not known (want 'squashfs', 'erofs', 'cpio',",
                ":7:21: root.ftch: unknown key 'ftch' (did you mean 'fetch'?)",
            ],
        ),
        (
            ROCKY,
            [":1:1: repositories: is missing (want a list, each with name, url and key)"],
        ),
        (
            ROCKY.replace('"8"', "bookworm") + "mirror: http://mirror.example/\n" + REPOSITORIES,
            [
                ":4:10: release: 'bookworm' is no release of rocky (want one such as \"8\")",
                ":6:1: mirror: means nothing for rocky (want `repositories`)",
                ":8:73: repositories[0].key: there is no file",
            ],
        ),
        (
            ROCKY.replace('"8"', "8") + "repositories:\n  - {name: a b, url: 'ftp://x'}\n"
            "  - {name: a, url: 'file:/x', key: /etc/key, keys: x}\n",
            [
                ":4:10: release: 8 is not text (put quotes around it)",
                ":7:5: repositories[0].key: is missing",
                ":7:12: repositories[0].name: 'a b' cannot name a repository",
                ":7:22: repositories[0].url: 'ftp://x' is not a URL (want https://",
                ":8:20: repositories[1].url: 'file:/x' is not a URL",
                ":8:36: repositories[1].key: '/etc/key' is not a path beside image.yaml",
                ":8:46: repositories[1].keys: unknown key 'keys' (did you mean 'key'?)",
            ],
        ),
        (
            ROCKY + REPOSITORIES.replace("extra,", "local,").replace("keys/rocky", "none"),
            [":9:12: repositories[2].name: 'local' is the name of another repository"],
        ),
        (
            SYSTEM.replace("bookworm", '"8"') + REPOSITORIES.replace("keys/rocky", "none"),
            [
                ":4:10: release: '8' is no release of debian (want one such as bookworm)",
                ":5:1: repositories: means nothing for debian (want `mirror`)",
            ],
        ),
        ("", [": is empty"]),
        (
            "description: x\nkernel: {modules: []}\n",
            [
                ":2:9: kernel.package: is missing (want a package's name)",
                ":2:19: kernel.modules: is missing (want the modules that reach the network)",
            ],
        ),
        (
            MINIMAL + "limits: {tree: 5, file: 3MB, ram: 0MiB, x: 1}\n",
            [
                ":3:16: limits.tree: '5' is not a size (want one such as 600MiB or 2GiB)",
                ":3:25: limits.file: '3MB' is not a size",
                ":3:35: limits.ram: '0MiB' is not a size",
                ":3:41: limits.x: unknown key 'x'",
            ],
        ),
        (
            MINIMAL.replace("modules:", "without: [ext4], modules:") + "architecture: riscv64\n",
            [":3:15: architecture: 'riscv64' is not known (want 'amd64' or 'arm64')"],
        ),
        (
            MINIMAL.replace("modules:", "without: [ext4], modules:"),
            [":2:48: kernel.without[0]: no base names a module 'ext4' (want one of its"],
        ),
        (MINIMAL + "base: ../x\n", [":3:7: base: '../x' cannot be an image's name"]),
        (MINIMAL + "base: none\n", [":3:7: base: there is no recipe 'none' (there are: "]),
        (MINIMAL + "base: broken\n", [":3:7: base: 'broken' is based on this recipe itself"]),
    ],
)
def test_every_mistake_is_named_at_its_place(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    folder = recipe_in(tmp_path / "broken", text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(folder)
    found = [str(problem) for problem in caught.value.problems]
    assert len(found) == len(expected), found
    for problem, start in zip(found, expected, strict=True):
        assert problem.startswith(f"{folder}/image.yaml{start}")


def test_a_folder_that_cannot_be_an_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the folder 'Über' cannot be an image's name"):
        load_recipe(recipe_in(tmp_path / "Über", MINIMAL))


def test_a_folder_without_a_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"image\.yaml: cannot be read: No such file"):
        load_recipe(tmp_path)


BASE = """\
description: what others are based on
distribution: debian
release: bookworm
mirror: http://mirror.example/debian
packages: [systemd, curl]
overlay: files
customise: script
root: {format: tar.xz, fetch: ramdisk}
limits: {tree: 1GiB, ram: 600MiB}
kernel: {package: linux-image-amd64, modules: [virtio_net], load: [loop]}
kernel_args: [quiet]
"""


def recipe_on(tmp_path: Path, text: str) -> Path:
    """A recipe with these lines, based on BASE."""
    base = recipe_in(tmp_path / "base", BASE)
    (base / "files").mkdir()
    (base / "script").touch()
    return recipe_in(tmp_path / "own", f"description: mine\nbase: base\n{text}")


def test_a_recipe_that_adds_nothing_is_its_base(tmp_path: Path) -> None:
    own = load_recipe(recipe_on(tmp_path, ""))
    base = load_recipe(tmp_path / "base")
    assert (own.name, own.description) == ("own", "mine")
    assert own.bases == (tmp_path / "base",)
    assert own == replace(
        base, name="own", description="mine", folder=tmp_path / "own", bases=own.bases
    )


def test_single_values_replace_and_lists_are_added(tmp_path: Path) -> None:
    folder = recipe_on(
        tmp_path,
        "packages: [vim, curl]\noverlay: more\ncustomise: then\nroot: {format: erofs}\n"
        "limits: {ram: 2GiB}\nkernel: {load: [dummy]}\nkernel_args: [loglevel=4]\n",
    )
    (folder / "more").mkdir()
    (folder / "then").touch()
    own = load_recipe(folder)
    assert own.kernel == KernelSpec(
        package="linux-image-amd64", modules=("virtio_net",), load=("loop", "dummy")
    )
    assert own.kernel_args == ("quiet", "loglevel=4")
    assert own.limits == Limits(tree=1 << 30, ram=2 << 30)
    assert own.system is not None
    assert own.system.packages == ("systemd", "curl", "vim")
    assert own.system.overlays == (tmp_path / "base/files", folder / "more")
    assert own.system.scripts == (tmp_path / "base/script", folder / "then")
    assert (own.system.format, own.system.fetch) == (RootFormat.EROFS, Fetch.RAMDISK)
    assert own.system.mirror == "http://mirror.example/debian"


def test_a_recipe_can_be_based_on_one_that_bootnode_brings(tmp_path: Path) -> None:
    own = load_recipe(recipe_in(tmp_path / "own", "description: x\nbase: compute\n"))
    assert own.bases == (recipes_folder() / "compute",)
    assert own.system is not None
    assert "systemd" in own.system.packages


def test_mistakes_in_a_base_are_named_in_its_own_file(tmp_path: Path) -> None:
    recipe_in(tmp_path / "base", "description: x\nkernl: {}\n")
    with pytest.raises(ConfigError, match=r"base/image\.yaml:2:1: kernl: unknown key"):
        load_recipe(recipe_in(tmp_path / "own", "description: x\nbase: base\n"))


def test_a_circle_of_recipes_is_found(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        recipe_in(tmp_path / name, f"description: x\nbase: {base}\n")
    with pytest.raises(ConfigError, match=r"c/image\.yaml:2:7: base: 'a' is based on this recipe"):
        load_recipe(tmp_path / "a")


def test_a_long_chain_of_recipes_has_an_end(tmp_path: Path) -> None:
    for number in range(MAX_BASES + 1):
        recipe_in(tmp_path / f"r{number}", f"description: x\nbase: r{number + 1}\n")
    recipe_in(tmp_path / f"r{MAX_BASES + 1}", MINIMAL)
    assert load_recipe(tmp_path / "r1").kernel.package == "linux-image-amd64"
    with pytest.raises(ConfigError, match="more than 8 recipes are based on one another"):
        load_recipe(tmp_path / "r0")


def test_the_loader_of_a_base_is_kept_or_replaced(tmp_path: Path) -> None:
    recipe_in(tmp_path / "one", MINIMAL + "loader: uki\n")
    two = load_recipe(recipe_in(tmp_path / "two", "description: y\nbase: one\n"))
    three = load_recipe(recipe_in(tmp_path / "three", "description: y\nbase: one\nloader: ipxe\n"))
    assert [recipe.loader for recipe in (two, three)] == ["uki", "ipxe"]
    assert load_recipe(recipe_in(tmp_path / "four", MINIMAL)).loader is None
