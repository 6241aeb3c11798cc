"""The text catalogue as far as a text is opened: T1 to T8 and T12."""

import math

import pytest

from chiasm.media.text import Text
from chiasm.types import BadInput


def opened(value, **options):
    return Text(Text.Options(**options)).open(value)


def reason(value, **options):
    with pytest.raises(BadInput) as error:
        opened(value, **options)
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("value", ["", "  \n\t ", b"", "\ufeff", "\0\0", "\u3000"])
def test_t1_empty(value):
    assert reason(value) == "empty"


@pytest.mark.parametrize("value", [b"caf\xe9", "中文".encode("gb18030"), b"\xff\xfea\0"])
def test_t2_not_utf8(value):
    assert reason(value) == "bad_encoding"


def test_t3_byte_order_mark():
    assert opened(b"\xef\xbb\xbfcat") == opened("\ufeffcat") == ("cat", ("byte order mark removed",))


def test_t4_control_characters():
    assert opened("a\0b\x1b[31mc\x7f\x85\r\nd\te") == ("ab[31mc\r\nd\te", ("control characters removed",))


def test_t5_lone_surrogate():
    assert reason("a\ud83db") == "bad_encoding"


def test_t6_too_long():
    assert reason("a" * 10_000_000) == reason(b"a" * 10_000_000) == reason("abcd", max_chars=3) == "too_long"


def test_t7_special_tokens_are_ordinary_text():
    text = "look <image> <|im_start|> [CLS] </s>"
    assert opened(text) == (text, ())


def test_t8_one_unicode_form():
    assert opened("caf\u0065\u0301") == ("caf\u00e9", ("normalised",)) and opened("caf\u00e9") == ("caf\u00e9", ())
    assert opened("e\u0301", normalise="none") == ("e\u0301", ())
    assert opened("\ufb01", normalise="NFKC")[0] == "fi"


@pytest.mark.parametrize("text", ["שלום עולם", "日本語の文", "👩‍👩‍👧‍👦 family", "a\u200db"])
def test_t9_other_scripts_stay(text):
    assert opened(text) == (text, ())


@pytest.mark.parametrize("value", [None, math.nan, 5, True, ["a"], {"a": 1}])
def test_t12_not_text(value):
    assert reason(value) == "bad_type"
