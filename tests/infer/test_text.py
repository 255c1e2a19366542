"""Text as it is written: characters whole, stop texts found wherever they lie."""

from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.data.tokenizer import Tokenizer
from llama3_jax.data.tokenizer_training import train_tokenizer
from llama3_jax.infer.text import TextAssembler

TOKENIZER = train_tokenizer(["the cat sat on the mat; naïve Ünïcode 日本語 🦙 text"] * 3, vocab_size=540)


def assemble(ids, stop=()):
    """`(pieces, stopped)`."""
    text = TextAssembler(TOKENIZER, stop)
    pieces = []
    for token in ids:
        pieces.append(text.feed(token))
        if text.stopped:
            break
    return [*pieces, text.finish()], text.stopped


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.sampled_from("the cat日本🦙ïÜ\n "), max_size=60))
def test_pieces_make_the_text_and_none_ends_in_half_a_character(text):
    pieces, _ = assemble(TOKENIZER.encode(text))
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(st.sampled_from("ab🦙 "), max_size=40),
    stop=st.lists(st.text(st.sampled_from("ab🦙 "), min_size=1, max_size=5), max_size=3),
)
def test_a_stop_text_is_cut_off_wherever_it_lies(text, stop):
    pieces, stopped = assemble(TOKENIZER.encode(text), stop)
    places = [text.find(part) for part in stop if part in text]
    assert stopped == bool(places)
    assert "".join(pieces) == (text[: min(places)] if places else text) or _a_later_one_ended_first(text, stop, pieces)


def _a_later_one_ended_first(text, stop, pieces) -> bool:
    """Of two stop texts that overlap the one that is complete first decides, as nobody can know what follows."""
    shown = "".join(pieces)
    return text.startswith(shown) and any(text[len(shown) :].startswith(part) for part in stop)


def test_bytes_that_never_become_a_character_are_shown_at_last():
    lone = TOKENIZER.encode("日")[:1]
    pieces, _ = assemble(lone)
    assert "".join(pieces) == "\N{REPLACEMENT CHARACTER}"
    pieces, _ = assemble(lone * 50)
    assert "".join(pieces) == "\N{REPLACEMENT CHARACTER}" * 50 and any(pieces[:-1])


@settings(deadline=None)
@given(tokens=st.lists(st.integers(0, 300), max_size=40))
def test_any_tokens_give_the_text_of_all_without_special_ones(tokens):
    """Bytes in any order, special tokens, and ids beyond the tokenizer's vocabulary, which a model may have."""
    bytewise = Tokenizer({bytes([byte]): byte for byte in range(256)})
    text = TextAssembler(bytewise)
    pieces = [*map(text.feed, [*tokens, 600]), text.finish()]
    assert "".join(pieces) == bytewise.decode([token for token in tokens if token < 256])
