"""Templates that people write: Jinja2, sandboxed and strict.

A file that is wrong is worse than one that is missing. So it is an error to name what is not there,
and to put in what is neither text nor a number, such as none or a list. Templates reach nothing but
what they are given, and change nothing of that. What a mapping holds goes before what Python can do
with it: `vars.keys` is the key of that name.

Limits: TEXT_MAX characters of text from one template. Time has no limit, except that range() gives
at most 100,000 numbers (Jinja2's sandbox): who writes templates is trusted with the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from bootnode.errors import BootnodeError, TemplateError

TEXT_MAX = 4 << 20
"""Characters that one template may give: /etc/hosts of 65,536 nodes is below."""
NAMES_SHOWN = 12
"""Names that a message about a missing one lists."""


class Template:
    """One template, ready to be rendered."""

    def __init__(self, name: str, text: str) -> None:
        """`name` is how messages call it.

        Raises:
            TemplateError: it is not a template.
        """
        self.name = name
        try:
            code = _ENVIRONMENT.compile(text, name=name, filename=name)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(name, error.lineno, error.message or "is no template") from None
        self._template = jinja2.Template.from_code(
            _ENVIRONMENT, code, _ENVIRONMENT.make_globals(None)
        )

    def render(self, values: Mapping[str, Any]) -> str:
        """The text that it gives with these values.

        Raises:
            TemplateError: a value is missing or of no use there, or the text is too long.
        """
        parts, length = [], 0
        try:
            for part in self._template.generate(values):
                parts.append(part)
                length += len(part)
                if length > TEXT_MAX:
                    raise TemplateError(self.name, 0, f"gives more than {TEXT_MAX} characters")
        except TemplateError:
            raise
        except Exception as error:  # noqa: BLE001  # an expression may raise whatever its values raise
            raise TemplateError(self.name, self._line_of(error), _in_words(error)) from None
        return "".join(parts)

    def _line_of(self, error: Exception) -> int:
        """The line of the template in which an error arose; 0 if that is unknown."""
        line, trace = 0, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.name:
                line = trace.tb_lineno
            trace = trace.tb_next
        return line


class _Missing(jinja2.StrictUndefined):
    """A name that is not there; its message lists those that are."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[jinja2.TemplateRuntimeError] = jinja2.UndefinedError,
    ) -> None:
        if hint is None and isinstance(obj, Mapping):
            hint = f"there is no '{name}' (there is: {_shortened(map(str, obj))})"
        super().__init__(hint, obj, name, exc)


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def _checked(value: Any) -> Any:
    """What `{{ value }}` puts into the text."""
    if isinstance(value, jinja2.Undefined):
        return str(value)  # which raises, with the reason
    if value is None:
        raise TypeError("there is no value to put in here: it is none")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(
            f"{_kind(value)} is neither text nor a number: use a loop, an if, `| join(' ')` "
            "or `| tojson`"
        )
    return value


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if callable(value):
        return "a function without its ()"
    return "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _in_words(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError):
        return error.message or type(error).__name__
    if isinstance(error, TypeError | BootnodeError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _shortened(names: Any) -> str:
    known = sorted(names)
    text = ", ".join(known[:NAMES_SHOWN]) or "nothing"
    return text if len(known) <= NAMES_SHOWN else f"{text}, and {len(known) - NAMES_SHOWN} more"


_ENVIRONMENT = _Environment(
    undefined=_Missing,
    finalize=_checked,
    # A line that holds nothing but a tag leaves no trace in the file.
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    cache_size=0,
)
