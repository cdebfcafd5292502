"""Which modules of a kernel go into a ramdisk: those a recipe names, and what they need.

Reads the text files that depmod writes: modules.dep, modules.alias, modules.softdep and
modules.builtin (see modules.dep(5)). A soft dependency counts as a dependency: ext4 without crc32c
mounts nothing, and what is not in the ramdisk cannot be loaded later.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

_GLOB_CHARACTERS = re.compile(r"[*?\[]")


class UnknownModulesError(ValueError):
    """A recipe names modules that the kernel does not have; the message names all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleIndex:
    """The modules of one kernel, by path below its module folder (`kernel/fs/ext4/ext4.ko`)."""

    dependencies: Mapping[str, tuple[str, ...]]
    """All that must be loaded before each module."""
    names: Mapping[str, str]
    """The path of each module by its name with `_` for `-`."""
    aliases: Mapping[str, tuple[str, ...]]
    """Module names by alias, patterns left out."""
    softdeps: Mapping[str, tuple[str, ...]]
    """Names or aliases that each module name likes to have loaded."""
    builtin: frozenset[str]
    """Names of what is in the kernel itself."""

    @classmethod
    def parse(cls, *, dep: str, alias: str, softdep: str, builtin: str) -> ModuleIndex:
        """Read depmod's files from their text."""
        dependencies = dict(_parse_dep(dep))
        return cls(
            dependencies=dependencies,
            names={module_name(path): path for path in dependencies},
            aliases=_parse_alias(alias),
            softdeps=dict(_parse_softdep(softdep)),
            builtin=frozenset(module_name(path) for path in builtin.split()),
        )

    def select(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """The paths of the modules in `wanted` (names or path patterns) and of all they need.

        Raises:
            UnknownModulesError: a name or pattern fits no module, built in or not.
        """
        waiting: list[str] = []
        unknown: list[str] = []
        for text in wanted:
            found = self._find(text)
            if not found and module_name(text) not in self.builtin:
                unknown.append(self._describe_unknown(text))
            waiting += found
        if unknown:
            raise UnknownModulesError(f"the kernel has no module {', '.join(unknown)}")
        selected: set[str] = set()
        while waiting:
            path = waiting.pop()
            if path not in selected:
                selected.add(path)
                waiting += self._needed_by(path)
        return tuple(sorted(selected))

    def _find(self, text: str) -> list[str]:
        if "/" in text or _GLOB_CHARACTERS.search(text):
            pattern = f"kernel/{text}"
            return [path for path in self.dependencies if fnmatchcase(path, pattern)]
        path = self.names.get(module_name(text))
        return [path] if path else []

    def _needed_by(self, path: str) -> list[str]:
        needed = list(self.dependencies[path])
        for text in self.softdeps.get(module_name(path), ()):
            candidates = (module_name(text), *self.aliases.get(text, ()))
            needed += [self.names[name] for name in candidates if name in self.names]
        return needed

    def _describe_unknown(self, text: str) -> str:
        nearest = difflib.get_close_matches(module_name(text), self.names, n=1)
        return f"'{text}'" + (f" (did you mean '{nearest[0]}'?)" if nearest else "")


def module_name(path: str) -> str:
    """The name that the kernel gives a module: `kernel/…/virtio-rng.ko.xz` is `virtio_rng`."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def _parse_dep(text: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    for line in text.splitlines():
        path, _, needed = line.partition(":")
        yield path, tuple(needed.split())


def _parse_alias(text: str) -> dict[str, tuple[str, ...]]:
    aliases: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        # `alias PATTERN MODULE`; devices match the patterns, which nothing here has to look up.
        match line.split():
            case ["alias", name, module] if not _GLOB_CHARACTERS.search(name):
                aliases[name] = (*aliases.get(name, ()), module_name(module))
    return aliases


def _parse_softdep(text: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    for line in text.splitlines():
        match line.split():
            case ["softdep", module, *words]:
                yield module_name(module), tuple(w for w in words if w not in ("pre:", "post:"))
