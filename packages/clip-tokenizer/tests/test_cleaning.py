from __future__ import annotations

import random
import sys

import ftfy
import pytest
from clip_tokenizer.cleaning import (
    CLEAN_MODES,
    SEPARATOR,
    clean_batch,
    clean_text,
    count_controls,
    is_plain,
    normalize_case,
    repair,
)


def plain_strings(count):
    rng = random.Random(0)
    letters = [chr(code) for code in range(0x20, 0x7F) if chr(code) != "&"] + [*"\t\n\f\r"]
    pieces = [*letters, "<b>", "</p>", "it's", '"', "http://x.y/?a=1;b", "  ", "\r\n"]
    return ["".join(rng.choices(pieces, k=rng.randint(0, 40))) for _ in range(count)]


def test_repair_does_not_change_plain_text():
    strings = plain_strings(5000)
    for text in strings:
        assert is_plain(text)
        # ftfy may turn one line end into another, which is white space either way
        assert repair(text).split() == text.split()


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7E, 0x100), ord("&")])
def test_each_character_that_repair_may_touch_is_not_plain(code):
    text = f"a{chr(code)}b"
    if chr(code) in "\t\n\f\r~":
        assert is_plain(text)
    else:
        assert not is_plain(text)


def test_controls_are_counted_in_ascii():
    assert count_controls("a\x00b\x1f\x7f\t\n\f\r ~") == 3


@pytest.mark.parametrize("mode", CLEAN_MODES)
def test_a_batch_is_cleaned_as_its_texts_are(mode, odd_strings):
    for texts in (odd_strings.draw_strings(5, 500), plain_strings(500), [""], ["\x00"], ["a", ""]):
        chunks = clean_batch(texts, mode).split()
        expected = []
        for text in texts:
            expected += [*clean_text(text, mode).split(), SEPARATOR]
        assert chunks == expected[:-1]


def test_no_cleaned_text_holds_the_separator():
    for hopeful in ("\x00", "&#0;", "&#x00;", "&amp;#0;", "a&#0;b\x00"):
        for mode in CLEAN_MODES:
            assert SEPARATOR not in clean_text(hopeful, mode)


def test_lower_case_stays_lower_case():
    # texts are lowered one by one or joined, so lowering must not depend on having been done
    for code in range(sys.maxunicode + 1):
        lowered = chr(code).lower()
        assert lowered.lower() == lowered


def test_modes():
    text = "  The&nbsp;&amp;lt; Na\u00efve_CAT\u2019s  (2)  "
    assert clean_text(text, "whitespace") == "The < Naïve_CAT's (2)"
    assert clean_text(text, "lower") == "the < naïve_cat's (2)"
    assert clean_text(text, "canonicalize") == "the naïve cats 2"
    assert normalize_case("A_b!", "canonicalize") == "a b"


def test_repair_is_ftfy_then_html():
    assert repair("doesnâ€™t") == "doesn't" == ftfy.fix_text("doesnâ€™t")
    assert repair("&amp;amp;") == "&"
