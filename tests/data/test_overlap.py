"""How much of one text stands in another."""

import random

import numpy as np
import pytest

from sparseact.data import shared_passages, sketch_passages
from sparseact.data.overlap import KEPT, PASSAGE


def letters(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice("abcdefghij klmnopqrs, tuvwxyz.") for _ in range(count))


def slow_share(one: str, other: str) -> float:
    """Share of the passages of one text that stand in the other."""

    def passages(text: str) -> set[str]:
        kept = "".join(filter(str.isalnum, text.lower()))
        return {kept[i : i + PASSAGE] for i in range(max(1, len(kept) - PASSAGE + 1))}

    return len(passages(one) & passages(other)) / len(passages(one))


def test_the_same_text_is_all_shared_and_another_not_at_all():
    assert shared_passages(sketch_passages(letters(0, 5000)), letters(0, 5000)) == 1
    assert shared_passages(sketch_passages(letters(0, 5000)), letters(1, 5000)) == 0


def test_case_space_and_punctuation_do_not_count():
    text = letters(0, 3000)
    changed = text.upper().replace(" ", "\n").replace(",", " - ")
    assert shared_passages(sketch_passages(text), changed) == 1


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_a_shared_part_is_estimated(share):
    text = letters(0, 40_000)
    other = letters(1, 20_000) + text[: int(share * len(text))] + letters(2, 20_000)
    assert slow_share(text, other) == pytest.approx(share, abs=0.01)
    assert shared_passages(sketch_passages(text), other) == pytest.approx(share, abs=4 * (share / KEPT) ** 0.5)
    assert shared_passages(sketch_passages(text), other) > 0


def test_a_short_text_is_compared_exactly():
    text, other = letters(0, 400), letters(1, 300) + letters(0, 400)[100:250] + letters(2, 300)
    assert shared_passages(sketch_passages(text), other) == pytest.approx(slow_share(text, other))


def test_texts_shorter_than_a_passage():
    assert shared_passages(sketch_passages("The fox."), "the fox") == 1
    assert shared_passages(sketch_passages("The fox."), "the dog") == 0
    assert shared_passages("", "anything") == 0


def test_a_sketch_is_small_and_a_random_sample():
    sketch = sketch_passages(letters(0, 200_000))
    assert len(sketch) < 6000
    halves = [shared_passages(sketch, letters(0, 200_000)[part]) for part in (slice(100_000), slice(100_000, None))]
    assert halves == pytest.approx([0.5, 0.5], abs=0.1)
    assert np.isclose(sum(halves), 1, atol=0.01)
