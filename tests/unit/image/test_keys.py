"""What each key of a recipe may be by itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from bootnode.image.keys import KernelKeys, LimitKeys, RecipeFile, RepositoryKeys, is_url

REPOSITORY = {"name": "base", "url": "https://mirror.example/os/", "key": "none"}


@pytest.mark.parametrize(
    ("model", "key", "good", "bad"),
    [
        (
            KernelKeys,
            "package",
            ["linux-image-amd64", "kernel-core", "NetworkManager", "libstdc++", "perl_x"],
            ["-rf", "a b", "x", "", "../x", "a,b", "@core"],
        ),
        (KernelKeys, "modules", [["e1000", "drivers/net/*"]], [["../x"], ["a b"], [5]]),
        (LimitKeys, "tree", ["1GiB", "300MiB"], ["1GB", "0MiB", 5, "-1MiB", ""]),
        (RecipeFile, "release", ["bookworm", "8", "8.10"], ["../x", "", "Bookworm", 8]),
        (RecipeFile, "mirror", ["http://m.example/debian", "file:/x"], ["x", "http://a b"]),
        (
            RecipeFile,
            "overlay",
            ["overlay", "a/b", "./x"],
            ["/x", "../x", "a/../b", "", "./."],
        ),
        (RecipeFile, "distribution", ["debian", "rocky"], ["Debian", ""]),
        (RepositoryKeys, "name", ["base", "BaseOS-8.10_x"], ["a b", "", "-x", "a/b", "[x]"]),
        (
            RepositoryKeys,
            "url",
            ["http://x/$releasever", "https://x", "file:///srv"],
            ["file:/srv", "ftp://x", "https://a b", "https://a\nb", ""],
        ),
        (
            RepositoryKeys,
            "key",
            ["none", "keys/rocky", "https://x/key"],
            ["/etc/key", "../key"],
        ),
    ],
)
def test_what_a_key_may_be(
    model: type[BaseModel], key: str, good: list[Any], bad: list[Any]
) -> None:
    needed = {RecipeFile: {"description": "x"}, RepositoryKeys: REPOSITORY}.get(model, {})
    for value in good:
        model.model_validate({**needed, key: value})
    for value in bad:
        with pytest.raises(ValidationError) as caught:
            model.model_validate({**needed, key: value})
        assert caught.value.errors()[0]["loc"][0] == key


@pytest.mark.parametrize("missing", REPOSITORY)
def test_a_repository_says_everything(missing: str) -> None:
    """Above all its key: nobody takes unsigned packages without saying so."""
    with pytest.raises(ValidationError, match=missing):
        RepositoryKeys.model_validate({k: v for k, v in REPOSITORY.items() if k != missing})


def test_urls_and_paths_are_told_apart() -> None:
    assert is_url("file:///etc/key")
    assert not is_url("file/key")
