"""What GRUB is given to run, and that nothing in it can become a command."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from bootnode.addresses import MacAddress
from bootnode.boot.grub import LOOP, image_file, render, script_mac
from bootnode.boot.plan import Hold, ImageBoot, ImageFiles, LocalBoot, Site

MAC = MacAddress.parse("52:54:00:12:34:56")
SITE = Site(address=IPv4Address("10.77.0.1"), http_port=8080)
IMAGE = ImageFiles(
    name="failsafe",
    version="0123456789abcdef",
    kernel="vmlinuz",
    initrds=("initrd.img", "root.img"),
    kernel_args=("loglevel=4",),
)
PLAN = ImageBoot(node="n1", mac=MAC, site=SITE, image=IMAGE, kernel_args=("console=ttyS0",))


def test_one_configuration_for_all_asks_for_the_nodes_own_for_ever() -> None:
    assert LOOP == (
        "# Of bootnode; a grub/grub.cfg in the folder that `files` names takes its place.\n"
        "while true; do\n"
        '  source "/boot/$net_default_mac.grub"\n'
        '  echo "bootnode: asking again in 15 s"\n'
        "  sleep 15\n"
        "done\n"
    )


def test_an_image() -> None:
    assert render(PLAN) == (
        "echo 'bootnode: n1 boots failsafe 0123456789abcdef'\n"
        "if linux '/images/failsafe/0123456789abcdef/vmlinuz'"
        " 'bootnode.server=http://10.77.0.1:8080' 'bootnode.node=n1'"
        " 'bootnode.image=failsafe/0123456789abcdef' 'BOOTIF=01-52-54-00-12-34-56'"
        " 'loglevel=4' 'console=ttyS0'; then\n"
        "  if initrd '/images/failsafe/0123456789abcdef/initrd.img'"
        " '/images/failsafe/0123456789abcdef/root.img'; then\n"
        "    boot\n"
        "  fi\n"
        "fi\n"
        "echo 'bootnode: fetch failed'\n"
    )


def test_init_fetches_the_nodes_own_files() -> None:
    url = "http://10.77.0.1:8080/boot/52-54-00-12-34-56/failsafe/0123456789abcdef/node.cpio"
    text = render(replace(PLAN, image=replace(IMAGE, has_node_files=True)))
    assert f"'bootnode.node_files={url}'" in text


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("a=$root", "'a=$root'"),
        ("a=b;reboot", "'a=b;reboot'"),
        ("a b", "'a' 'b'"),
        ('dyndbg="file x +p"', "'dyndbg=file x +p'"),
        ('a="b"c', "'a=bc'"),
        ('a="b c', "'a=b c'"),
        ("{a} && b|c", "'{a}' '&&' 'b|c'"),
    ],
)
def test_arguments_reach_the_kernel_as_they_are(argument: str, words: str) -> None:
    assert f" {words}; then\n" in render(replace(PLAN, kernel_args=(argument,)))


@pytest.mark.parametrize("argument", ["a='b'", "a\\b", "a='; reboot; echo '"])
def test_what_grub_would_change_is_said_instead(argument: str) -> None:
    text = render(replace(PLAN, kernel_args=(argument,)))
    assert text.startswith("echo 'bootnode: n1 waits: GRUB cannot pass on the kernel argument ")
    assert text.count("\n") == 1
    assert is_one_word(text.removeprefix("echo ").rstrip("\n"))


@pytest.mark.parametrize(
    "reason",
    [
        "image 'failsafe' is not built: run `bootnode image build failsafe`",
        "'; reboot; echo '",
        "$(reboot) ${root} \\' \\",
        "a\nreboot\r\0\x1b[2J",
        "größer",
    ],
)
def test_a_reason_is_shown_and_never_run(reason: str) -> None:
    text = render(Hold(node="n1", mac=MAC, site=SITE, reason=reason))
    assert text.isascii()
    assert text.startswith("echo 'bootnode: n1 waits: ")
    assert is_one_word(text.removeprefix("echo ").rstrip("\n"))


def is_one_word(text: str) -> bool:
    """Whether GRUB's shell reads one word, in which nothing is expanded."""
    at = 0
    while at < len(text):
        if text[at] == "'":
            at = text.find("'", at + 1) + 1
            if not at:
                return False
        elif text[at : at + 2] == "\\'":
            at += 2
        else:
            return False
    return text.isprintable()


def test_the_local_disk() -> None:
    text = render(LocalBoot(node="n1"))
    assert text.startswith("echo 'bootnode: n1 boots from its local disk'\n")
    assert text.endswith("\nreboot\n")
    assert "/efi/boot/bootaa64.efi" in text


@pytest.mark.parametrize(
    ("name", "mac"),
    [
        ("/boot/52:54:00:12:34:56.grub", MAC),
        ("boot/52-54-00-12-34-56.GRUB", MAC),
        ("//boot/52:54:00:12:34:56.grub", MAC),
        ("/boot/.grub", None),
        ("/boot/52:54:00:12:34.grub", None),
        ("/boot/52:54:00:12:34:56.ipxe", None),
        ("/x/boot/52:54:00:12:34:56.grub", None),
    ],
)
def test_names_of_a_nodes_own_file(name: str, mac: MacAddress | None) -> None:
    assert script_mac(name) == mac


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("/images/failsafe/0123/vmlinuz", ("failsafe", "0123", "vmlinuz")),
        ("images/../0123/vmlinuz", ("..", "0123", "vmlinuz")),  # which no store has
        ("images/failsafe/current/vmlinuz", None),
        ("images/failsafe/0123/a/b", None),
        ("images/failsafe/0123", None),
        ("/x/images/failsafe/0123/vmlinuz", None),
    ],
)
def test_names_of_files_of_an_image(name: str, parts: tuple[str, str, str] | None) -> None:
    assert image_file(name) == parts
