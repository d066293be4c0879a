from __future__ import annotations

import pytest
from dtp_pooling.training.alphabet import Alphabet, make_alphabet


def test_text8_alphabet_has_space_first():
    alphabet = Alphabet()
    assert len(alphabet) == 27
    assert alphabet.space == 0
    assert alphabet.encode("a z").tolist() == [1, 0, 26]


@pytest.mark.parametrize("name", ["bytes", "characters"])
def test_any_text_goes_through(name):
    text = "Żółw, naïve 🙂 text\n"
    alphabet = make_alphabet(name, text)
    assert alphabet.decode(alphabet.encode(text)) == text
    assert alphabet.encode(" ").tolist() == [alphabet.space]
    assert alphabet.encode("").shape == (0,)


def test_unsorted_alphabets_and_unknown_characters():
    alphabet = Alphabet(characters="zab")
    assert alphabet.encode("abz").tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match=r"outside the alphabet, \['\?', 'c'\]; use only .*'zab'"):
        alphabet.encode("abc?")
    with pytest.raises(ValueError, match="must differ"):
        Alphabet(characters="aa")
    with pytest.raises(ValueError, match="alphabet must be"):
        make_alphabet("utf8", "")
    with pytest.raises(ValueError, match="use the alphabet 'characters'"):
        make_alphabet("text8", "plain", "Z")
