"""Options as they are written: their order, and templates that write the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootnode.dhcp.optionfield import Template, options_size, serialize_options

VALUES = st.binary(min_size=1, max_size=20)
SHARED = st.dictionaries(st.integers(1, 254).filter(lambda code: code not in {52, 61, 82}), VALUES)
OWN = st.dictionaries(st.sampled_from((12, 61, 67, 82, 97)), VALUES)


def test_the_order_that_firmware_wants() -> None:
    options = dict.fromkeys((82, 224, 67, 1, 61, 60, 54, 53, 97, 12), b"x")
    written = serialize_options(options)
    assert list(written[:-1:3]) == [53, 54, 1, 12, 60, 97, 67, 61, 224, 82]
    assert written[-1] == 255
    assert len(written) == options_size(options)


def test_a_zero_behind_the_class_of_an_http_client_and_nowhere_else() -> None:
    assert serialize_options({60: b"HTTPClient"}) == b"\x3c\x0aHTTPClient\x00\xff"
    assert serialize_options({60: b"PXEClient"}) == b"\x3c\x09PXEClient\xff"
    assert options_size({60: b"HTTPClient"}) == 14


@given(SHARED, OWN)
def test_a_template_writes_what_its_options_would_be_written_as(
    shared: dict[int, bytes], own: dict[int, bytes]
) -> None:
    filled = Template(shared).fill(own)
    assert dict(filled) == {**shared, **own}
    assert len(filled) == len({**shared, **own})
    assert serialize_options(filled) == serialize_options({**shared, **own})
    assert options_size(filled) == len(serialize_options(filled))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({43: bytes(256)}, "option 43 (vendor-specific-information) with 256 bytes"),
        ({52: b"\1"}, "option 52 (option-overload) cannot be sent"),
    ],
)
def test_what_no_template_can_hold(options: dict[int, bytes], complaint: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent") as caught:
        Template(options)
    assert str(caught.value).startswith(complaint)
