"""A tiny model, its tokenizer, and two texts of one kind."""

import random

import pytest

from sparseact.testing import tiny_model, tiny_tokenizer

LETTERS = "abcdefghijklmnop ABCDEFG"


def write_text(seed: int, letters: int) -> str:
    return "".join(random.Random(seed).choices(LETTERS, weights=range(1, len(LETTERS) + 1), k=letters))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def text():
    return write_text(0, 2100)


@pytest.fixture(scope="module")
def unseen(tokenizer):
    """[40, 120] tokens of another text of the same kind."""
    return tokenizer(write_text(1, 4800), return_tensors="pt").input_ids.view(40, 120)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")
