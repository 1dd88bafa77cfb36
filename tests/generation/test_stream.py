"""Text as it comes: whole characters, nothing of a stop string; and options of sampling that are out of range."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseact.errors import InputError
from sparseact.generation.generated import Generated
from sparseact.generation.sampling import Sampling
from sparseact.generation.stream import TextStream
from sparseact.models import load_tokenizer
from sparseact.testing import tiny_tokenizer

LETTERS = "abc"


class Letters:
    """A tokenizer for the tests of stop strings: token i is the i-th letter."""

    def __call__(self, text, **options):
        return {"input_ids": [LETTERS.index(letter) for letter in text if letter in LETTERS]}

    def decode(self, tokens, **options):
        return "".join(LETTERS[token] for token in tokens)


class Bytes:
    """A tokenizer whose tokens are bytes of UTF-8."""

    def decode(self, tokens, **options):
        return bytes(tokens).decode(errors="replace")


def stream(tokenizer, tokens, stop=(), before=()):
    """(pieces, text, number of tokens that were taken)."""
    pieces = []
    text = TextStream(tokenizer, stop, pieces.append, before)
    taken = next((count for count, token in enumerate(tokens, start=1) if text.add(token)), len(tokens))
    return pieces, text.end(), taken


@given(st.text())
def test_a_character_is_never_split(text):
    pieces, whole, _ = stream(Bytes(), text.encode())
    assert whole == text == "".join(pieces)
    assert all(text.startswith("".join(pieces[: n + 1])) for n in range(len(pieces)))


def test_a_character_comes_with_its_last_byte():
    pieces, _, _ = stream(Bytes(), "a€b".encode())
    assert pieces == ["a", "€", "b"]


def test_a_text_that_ends_in_half_a_character_says_so():
    assert stream(Bytes(), "a€".encode()[:-1])[:2] == (["a", "\ufffd"], "a\ufffd")


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 2), max_size=12),
    st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=4), max_size=3),
)
def test_the_text_ends_before_the_first_stop_string(tokens, stop):
    letters = Letters().decode(tokens)
    # The stop string that is whole first, and of those the one that begins first.
    ends = [n for n in range(len(letters) + 1) if any(letters[:n].endswith(s) for s in stop)]
    expected = letters if not ends else min((letters[: ends[0]].removesuffix(s) for s in stop), key=len)
    pieces, text, taken = stream(Letters(), tokens, stop)
    assert text == expected == "".join(pieces)
    assert taken == (ends[0] if ends else len(tokens))


@given(st.lists(st.integers(0, 2), max_size=12), st.text(alphabet=LETTERS, min_size=1, max_size=4))
def test_what_is_held_back_is_only_what_a_stop_string_may_begin_with(tokens, stop):
    pieces = []
    text = TextStream(Letters(), [stop], pieces.append)
    for token in tokens:
        if text.add(token):
            break
        letters = Letters().decode(tokens[: len(text._tokens)])
        held = letters.removeprefix("".join(pieces))
        assert stop.startswith(held)
        assert not any(letters.endswith(stop[:size]) for size in range(len(held) + 1, len(stop)))


def test_after_a_stop_string_nothing_is_taken():
    pieces = []
    text = TextStream(Letters(), ["b"], pieces.append)
    assert [text.add(token) for token in (0, 1, 0)] == [False, True, True]
    assert (text.end(), pieces, text.stopped) == ("a", ["a"], True)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(InputError, match="stop: an empty string"):
        TextStream(Letters(), ["a", ""], print)


@pytest.mark.smollm2
@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_pieces_add_up_with_a_real_tokenizer(text):
    tokenizer, _ = load_tokenizer("smollm2")
    tokens = tokenizer(text)["input_ids"]
    pieces, whole, _ = stream(tokenizer, tokens)
    assert whole == tokenizer.decode(tokens, skip_special_tokens=True) == "".join(pieces)


def test_a_leading_space_survives_where_the_tokenizer_strips_it_from_a_text():
    """Tokenizers of Llama's kind drop the space of the first token: a piece must not be decoded on its own."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "c": 2}, unk_token="c"))
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert stream(tokenizer, [0, 1, 2])[:2] == (["a", " b", "c"], "a bc")
    for before in ([2], [0], [1] * 20):
        assert stream(tokenizer, [0, 1, 2], before=before)[:2] == ([" a", " b", "c"], " a bc")
    assert stream(tokenizer, [2, 1], before=[2])[:2] == (["c", " b"], "c b")
    assert stream(tokenizer, [0, 1], [" a"], before=[2])[:2] == ([], "")


def test_tokens_without_text_do_not_hide_what_stands_before_them():
    """A tokenizer that puts spaces between words needs the last word to know that one comes."""
    tokens = tiny_tokenizer()("ab<pad><s>c")["input_ids"]
    pieces, text, _ = stream(tiny_tokenizer(), tokens)
    assert (pieces, text) == (["a", " b", " c"], "a b c")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1}, "temperature: -1 is not 0 or between"),
        ({"temperature": float("nan")}, "temperature: nan is not"),
        ({"temperature": float("inf")}, "temperature: inf is not"),
        ({"temperature": 1e-300}, "temperature: 1e-300 is not"),
        ({"top_k": -1}, "top_k: -1 is not 0 or more"),
        ({"top_p": 0.0}, "top_p: 0.0 is not above 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p: nan"),
        ({"min_p": 1.1}, "min_p: 1.1 is not between 0 and 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: 0.0 is not between"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Sampling(**options)


def test_the_first_token_is_not_in_the_rate_of_decoding():
    parts = {"text": "", "prompt_tokens": 1, "achieved": 0.0, "bytes_per_token": 0.0, "prefill_seconds": 1.0}
    assert Generated(tokens=5, decode_seconds=2.0, **parts).tokens_per_second == 2
    assert Generated(tokens=1, decode_seconds=0.0, **parts).tokens_per_second == 0
