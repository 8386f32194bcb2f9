"""How values are written: RFC 8785's forms, and what is refused."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict, defaultdict
from decimal import Decimal
from enum import Enum, IntEnum

import pytest

from or_cache_magic.core.key import canonical_json
from or_cache_magic.errors import RequestError


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Answer(str):
    """A text with facts, as a `Completion` is."""

    __slots__ = ()

    def __str__(self) -> str:
        return "shown otherwise"


class Ratio(float):
    """A float of another type, as `numpy.float64` is."""

    def __repr__(self) -> str:
        return f"Ratio({float(self)})"


@pytest.mark.parametrize(
    ("number", "written"),
    [  # RFC 8785, appendix B, and the edges at which the notation changes
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (-5e-324, "-5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"),
        (-9007199254740992.0, "-9007199254740992"),
        (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (1.0000000000000001e23, "1.0000000000000001e+23"),
        (999999999999999700000.0, "999999999999999700000"),
        (999999999999999900000.0, "999999999999999900000"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (0.000001, "0.000001"),
        (-1.5e-6, "-0.0000015"),
        (333333333.33333329, "333333333.3333333"),
        (1424953923781206.2, "1424953923781206.2"),
        (1.0, "1"),
        (0.7, "0.7"),
        (1e-5, "0.00001"),
        (1e16, "10000000000000000"),
        (1.25e17, "125000000000000000"),
    ],
)
def test_canonical_json__writes_floats_as_ecmascript(number, written):
    """A float is written with the fewest digits, in the notation that ECMAScript chooses."""
    assert canonical_json(number) == written.encode()


def test_canonical_json__keeps_big_integers_exact():
    """An integer that no float can hold keeps all its digits."""
    assert canonical_json([2**53 + 1, -(10**30), 2**64]) == b"[9007199254740993,-%d,%d]" % (10**30, 2**64)


def test_canonical_json__sorts_names_by_utf16():
    """Names are sorted by UTF-16 code units: an emoji comes before U+FB33 (RFC 8785 §3.2.3)."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]

    assert list(json.loads(canonical_json(dict.fromkeys(names)))) == [
        "\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33",
    ]  # fmt: skip


def test_canonical_json__escapes_only_what_must_be():
    """Control characters, quotes and backslashes are escaped; everything else is UTF-8."""
    assert (
        canonical_json('\0\x1f\n\t"\\/\x7f\u2028é😀')
        == '"\\u0000\\u001f\\n\\t\\"\\\\/\x7f\u2028é😀"'.encode()
    )


def test_canonical_json__tells_the_constants_from_numbers():
    """True, 1, "1", null and nothing are five values."""
    assert canonical_json([True, False, 1, "1", None, {}, []]) == b'[true,false,1,"1",null,{},[]]'


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Answer("so"), "so"),
        (Ratio(0.5), 0.5),
        ((1, (2,)), [1, [2]]),
        (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        (defaultdict(list, {"a": []}), {"a": []}),
        ({Colour.RED: 1}, {"red": 1}),
    ],
)
def test_canonical_json__takes_subclasses_for_what_they_hold(value, plain):
    """What `json.dumps` sends as text, number, list or object is written as that."""
    assert canonical_json(value) == canonical_json(plain)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, float("nan")]}, "value.a[1] is nan"),
        ({"a": -float("inf")}, "value.a is -inf"),
        (["é\ud83d"], "value[0] has half of a surrogate pair (U+D83D) at character 1"),
        ({"\udc00": 1}, "a name in value has half of a surrogate pair (U+DC00) at character 0"),
        ({"é\udc00": 1, "b": 1}, "a name in value has half of a surrogate pair (U+DC00) at character 1"),
        ({"a b": {1: 2}}, "value['a b'] has the name 1, which is not text"),
        ({None: 2}, "value has the name None"),
        ({1: 2, "a": 3}, "value has the name 1"),
        ({"a": b"raw"}, "value.a is of type bytes"),
        ({"a": {1, 2}}, "value.a is of type set"),
        (Decimal(1), "value is of type Decimal"),
    ],
)
def test_canonical_json__refuses_and_names_the_place(value, place):
    """What JSON can't say is refused in two lines, the first of which says what and where."""
    with pytest.raises(RequestError) as caught:
        canonical_json(value)

    assert str(caught.value).startswith(place)
    assert caught.value.hint
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.skipif(not hasattr(sys, "get_int_max_str_digits"), reason="an old 3.10 writes any integer")
def test_canonical_json__refuses_integers_that_python_does_not_write():
    """An integer beyond Python's limit of digits is refused with its place."""
    with pytest.raises(RequestError, match=r"value\[0\] is an integer of too many digits"):
        canonical_json([10**5000])


def test_canonical_json__refuses_a_value_that_holds_itself():
    """A list inside itself is an error with a name, not a crash."""
    value: list[object] = []
    value.append(value)

    with pytest.raises(RequestError, match="holds itself"):
        canonical_json(value)
