"""Windows of a text: each token predicted once, evenly spread, and the same as torch used to cut."""

import pytest
import torch

from sparseact.data.windows import cut_text, cut_whole
from sparseact.errors import InputError
from sparseact.testing import BOS, tiny_tokenizer

TEXT = "It was a dark and stormy night, and the rain fell in torrents, except at intervals. " * 30


def ids_of(text):
    return tiny_tokenizer()(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(("context", "stride"), [(64, 63), (64, 10), (30, 29), (300, 1)])
def test_windows_predict_each_token_once(context, stride):
    cut = cut_text(tiny_tokenizer(), TEXT[:200], context=context, stride=stride)
    assert [token for window in cut for token in window.ids[window.first :]] == ids_of(TEXT[:200])
    assert all(len(window.ids) <= context and window.ids[0] == BOS for window in cut)


def test_windows_without_a_bos_token():
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    cut = cut_text(tokenizer, TEXT[:200], context=64, stride=63)
    assert [token for window in cut for token in window.ids[window.first :]] == ids_of(TEXT[:200])[1:]
    assert cut_whole(tokenizer, TEXT[:200], context=64) == [ids_of(TEXT)[64 * i : 64 * i + 64] for i in range(3)]


def test_a_window_that_is_decoded_has_a_prompt():
    cut = cut_text(tiny_tokenizer(), TEXT[:200], context=64, stride=20, decode=True)
    assert [window.first for window in cut] == [44] * len(cut)
    assert [token for window in cut for token in window.ids[44:]] == ids_of(TEXT[:200])[43:]


def test_limit_spreads_over_the_text():
    every = cut_text(tiny_tokenizer(), TEXT, context=32, stride=31)
    some = cut_text(tiny_tokenizer(), TEXT, context=32, stride=31, limit=3)
    assert some == [every[i] for i in (0, (len(every) - 1) // 2, -1)]


@pytest.mark.parametrize("limit", [1, 2, 3, 13, 15, 27, 39, 63])
def test_whole_windows_are_those_that_torch_cut(limit):
    """Where torch.linspace rounds down (place 7.9999996 of 17) the windows of earlier results are kept."""
    for count in (1, 17, 29, 33, 39, 63, 64, 65):
        rows = torch.tensor(ids_of(TEXT))[: count * 31].view(-1, 31)
        rows = rows[torch.linspace(0, count - 1, limit).long()] if count > limit else rows
        expected = torch.cat([rows.new_full((len(rows), 1), BOS), rows], dim=1).tolist()
        assert cut_whole(tiny_tokenizer(), TEXT[: count * 31 + 30], context=32, limit=limit) == expected


def test_too_short_a_text_is_refused():
    with pytest.raises(InputError, match="text: 31 tokens are fewer than one window of 63"):
        cut_whole(tiny_tokenizer(), TEXT[:31], context=64)
    with pytest.raises(InputError, match="nothing to predict"):
        cut_text(tiny_tokenizer(), "", context=64, stride=63)
