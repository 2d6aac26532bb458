"""Any caption has tokens, and words that captions use often are whole ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from locavore.export.image_base.tokens import PAD_ID, build_tokenizer, style_token


def built(size: int = 150) -> Tokenizer:
    captions = {"red apple": 5, "green apple": 3, "grinning face": 4, "sunflower": 1}
    return build_tokenizer(captions, ["noto", "clip art/Ada Quill"], size)


def test_frequent_words_are_tokens() -> None:
    assert built().encode("Red APPLE, grinning face!").tokens == [
        "red",
        "apple",
        "grinning",
        "face",
    ]


def test_a_style_is_one_token() -> None:
    tokenizer = built()
    assert tokenizer.encode("<noto> red apple").tokens == ["<noto>", "red", "apple"]
    assert style_token("clip art/Ada Quill") == style_token("clip art/Bo Ink") == "<clip-art>"
    assert tokenizer.encode("<clip-art> apple").tokens == ["<clip-art>", "apple"]


def test_a_rare_word_is_cut_into_pieces_that_spell_it() -> None:
    tokens = built().encode("sunapple").tokens
    assert len(tokens) > 1
    assert "".join(t.removeprefix("##") for t in tokens) == "sunapple"


def test_no_vocabulary_is_larger_than_it_may_be() -> None:
    for size in (90, 100, 150):
        assert built(size).get_vocab_size() <= size


def test_the_same_captions_give_the_same_tokenizer() -> None:
    assert built().to_str() == built().to_str()


def test_it_survives_being_written() -> None:
    tokenizer = built()
    again = Tokenizer.from_str(tokenizer.to_str())
    assert again.encode("<noto> unheard of").ids == tokenizer.encode("<noto> unheard of").ids


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=40))
def test_letters_and_digits_are_spelled_out(text: str) -> None:
    encoded = TOKENIZER.encode(text)
    assert "".join(t.removeprefix("##") for t in encoded.tokens) == text.lower()
    assert PAD_ID not in encoded.ids


@given(st.text(max_size=40))
def test_no_caption_is_unknown(text: str) -> None:
    assert "[UNK]" not in TOKENIZER.encode(text).tokens


TOKENIZER = built()


@pytest.mark.parametrize("text", ["", " ", "…", "!?"])
def test_nothing_to_say_is_no_tokens(text: str) -> None:
    assert TOKENIZER.encode(text).ids == []
