"""A text with something in it to learn, for tiny models."""

import random

import pytest


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """6,000 letters of a language of 12 words."""
    words = ["abba", "cad", "bed", "fig", "hag", "jig", "kill", "lamp", "moon", "nest", "oval", "pit"]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(random.Random(0).choices(words, k=1500)))
    return path
