"""Templates: what they give, what they may not do, and where a fault is said to be."""

from __future__ import annotations

from typing import Any

import pytest

from bootnode.boot.templates import TEXT_MAX, Template
from bootnode.errors import TemplateError

VALUES: dict[str, Any] = {
    "vars": {"rack": 7, "keys": "K", "list": ["a", "b"], "on": True, "none": None, "deep": {"x": 1}}
}


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("plain\n", "plain\n"),
        ("", ""),
        ("rack {{ vars.rack }}", "rack 7"),
        # What a mapping holds goes before its methods, which are there all the same.
        ("{{ vars.keys }}", "K"),
        ("{% for key, value in vars.deep.items() %}{{ key }}={{ value }}{% endfor %}", "x=1"),
        ("{{ vars.list | join(' ') }} {{ vars.list | tojson }}", 'a b ["a", "b"]'),
        ("{{ vars.other | default('none') }}", "none"),
        ("{% if vars.other is defined %}x{% endif %}y", "y"),
        ("{{ 1.5 * 2 }} {{ '%04d' | format(vars.rack) }}", "3.0 0007"),
        # A line with nothing but a tag leaves no trace, and the end of the file stays as it is.
        ("a\n  {% if vars.on %}\nb\n  {% endif %}\nc\n", "a\nb\nc\n"),
        ("{# no one reads this #}\nx", "x"),
        ("<&> 'é' 図", "<&> 'é' 図"),
    ],
)
def test_what_is_given(text: str, given: str) -> None:
    assert Template("x.j2", text).render(VALUES) == given


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n{% for %}", "2: Expected an expression, got 'end of statement block'"),
        ("{{ rack", "1: unexpected end of template, expected 'end of print statement'."),
        ("{% if x %}\n\n", "2: Unexpected end of template."),
        ("{{ x | nothing }}", "1: No filter named 'nothing'."),
    ],
)
def test_what_is_no_template(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as raised:
        Template("etc/x.j2", text)
    assert str(raised.value).startswith(f"etc/x.j2:{message}")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\n\n{{ rack }}", 3, "'rack' is undefined"),
        (
            "\n{{ vars.rak }}",
            2,
            "there is no 'rak' (there is: deep, keys, list, none, on, rack)",
        ),
        ("{{ vars.deep['y'] }}", 1, "there is no 'y' (there is: x)"),
        ("{{ vars.rak.x }}", 1, "there is no 'rak' "),
        ("{{ vars.rack.x }}", 1, "'int object' has no attribute 'x'"),
        ("{% for x in vars.rak %}{% endfor %}", 1, "there is no 'rak' "),
        ("{% if vars.rak %}{% endif %}", 1, "there is no 'rak' "),
        ("{{ vars.none }}", 1, "there is no value to put in here: it is none"),
        ("{{ vars.list }}", 1, "a list is neither text nor a number: use a loop"),
        ("{{ vars.deep }}", 1, "a mapping is neither text nor a number"),
        ("{{ vars.on }}", 1, "true is neither text nor a number"),
        ("{{ not vars.on }}", 1, "false is neither text nor a number"),
        ("{{ vars.items }}", 1, "a function without its () is neither"),
        ("{{ 1 / 0 }}", 1, "ZeroDivisionError: division by zero"),
        ("{{ vars.rack + 'x' }}", 1, "unsupported operand type(s)"),
        ("{{ ''.__class__.__mro__ }}", 1, "access to attribute '__class__' of 'str' object is"),
        ("{{ vars.update({}) }}", 1, "access to attribute 'update' of 'dict' object is unsafe."),
        ("{{ vars.list.append(1) }}", 1, "access to attribute 'append' of 'list' object is"),
        ("{{ range(10 ** 9) | list | length }}", 1, "OverflowError: Range too big."),
        ("{% include 'etc/passwd' %}", 1, "no loader for this environment specified"),
        (
            "{% for x in range(50000) %}{{ 'x' * 100 }}{% endfor %}",
            0,
            f"gives more than {TEXT_MAX} characters",
        ),
    ],
)
def test_what_cannot_be_rendered(text: str, line: int, message: str) -> None:
    template = Template("etc/x.j2", text)
    with pytest.raises(TemplateError) as raised:
        template.render(VALUES)
    assert raised.value.line == line
    assert raised.value.message.startswith(message)
    assert VALUES["vars"]["list"] == ["a", "b"]


def test_of_many_names_only_some_are_shown() -> None:
    values = {"vars": {f"n{number:02d}": "" for number in range(14)}}
    with pytest.raises(TemplateError, match=r"n10, n11, and 2 more\)$"):
        Template("x.j2", "{{ vars.x }}").render(values)


def test_an_exception_without_words_is_named() -> None:
    def fail() -> None:
        raise RuntimeError

    with pytest.raises(TemplateError, match=r"^x\.j2:1: RuntimeError$"):
        Template("x.j2", "{{ fail() }}").render({"fail": fail})
