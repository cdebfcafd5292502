"""What errors say, and in which order."""

from __future__ import annotations

import pytest

from bootnode.errors import (
    BootnodeError,
    ConfigError,
    ImageError,
    KeysError,
    LabError,
    NodeFilesError,
    PacketError,
    Problem,
    StartError,
    TemplateError,
)


def problem(line: int, column: int = 0, *, file: str = "n.yaml", key: str = "k") -> Problem:
    return Problem(file=file, line=line, column=column, key=key, message="is wrong (want right)")


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (problem(14, 11), "n.yaml:14:11: k: is wrong (want right)"),
        (problem(14), "n.yaml:14: k: is wrong (want right)"),
        (problem(0), "n.yaml: k: is wrong (want right)"),
        (problem(0, 5), "n.yaml: k: is wrong (want right)"),
        (problem(3, 1, key=""), "n.yaml:3:1: is wrong (want right)"),
    ],
)
def test_problem_names_its_place(one: Problem, text: str) -> None:
    assert str(one) == text


def test_config_error_lists_everything_in_the_order_of_the_files() -> None:
    last, first = problem(2, file="b.yaml"), problem(9, 2, file="a.yaml")
    middle = problem(10, 1, file="a.yaml")
    error = ConfigError(iter([last, middle, first]))
    assert error.problems == (first, middle, last)
    assert str(error).splitlines() == [str(first), str(middle), str(last)]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TemplateError("etc/x.j2", 3, "is wrong"), "etc/x.j2:3: is wrong"),
        (TemplateError("etc/x.j2", 0, "is wrong"), "etc/x.j2: is wrong"),
        (
            NodeFilesError([TemplateError("a", 1, "x"), TemplateError("b", 2, "y")]),
            "a:1: x; b:2: y",
        ),
    ],
)
def test_template_errors_name_their_place(error: Exception, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    "kind",
    [
        *(PacketError, ConfigError, ImageError, StartError, LabError),
        *(KeysError, TemplateError, NodeFilesError),
    ],
)
def test_one_base(kind: type[Exception]) -> None:
    assert issubclass(kind, BootnodeError)
