"""Text that a model writes to be calibrated on, text that it generates for a user, and overlap of texts."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparseact.data import builtin_questions, shared_passages, sketch_passages
from sparseact.data.overlap import KEPT, PASSAGE
from sparseact.errors import InputError
from sparseact.policies import TEAL, Phases, generate_text, write_text
from sparseact.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def letters(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice("abcdefghij klmnopqrs, tuvwxyz.") for _ in range(count))


# The model's own text.


def test_own_text_is_questions_and_sampled_answers(model):
    text = write_text(model, tiny_tokenizer(), tokens=300)
    assert [row["question"] in text for row in builtin_questions()[:8]] == [True] * 8
    assert len(tiny_tokenizer()(text).input_ids) > 300
    assert "<s>" not in text


def test_own_text_is_drawn_by_the_seed_alone(model):
    torch.manual_seed(1)
    first = write_text(model, tiny_tokenizer(), tokens=100, seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn  # the caller's generator is where it was
    assert write_text(model, tiny_tokenizer(), tokens=100, seed=3) == first
    assert write_text(model, tiny_tokenizer(), tokens=100, seed=4) != first


def test_own_text_is_enough_to_calibrate_on(model):
    text = write_text(model, tiny_tokenizer())
    assert TEAL(sparsity=0.4).calibrate(model, tiny_tokenizer(), text).meta["calibration"]["tokens"] > 1900


def test_a_context_too_short_for_a_question_is_refused():
    model = tiny_model("llama")
    model.config.max_position_embeddings = 8
    with pytest.raises(InputError, match="context of 8 tokens is too short"):
        write_text(model, tiny_tokenizer())


# What a user generates.


def test_pieces_of_text_add_up_to_the_text(model):
    pieces = []
    found = generate_text(model, tiny_tokenizer(), "Why?", max_new_tokens=20, on_text=pieces.append)
    assert "".join(pieces).strip() == found.text.strip()
    assert (found.prompt_tokens, found.achieved) == (4, 0)


def test_generation_equals_transformers(model):
    tokenizer = tiny_tokenizer()
    prompt = tokenizer("Why?", return_tensors="pt")
    recipe = TEAL(sparsity=0.5).calibrate(model, tokenizer, letters(0, 2200))
    with recipe(model) as density:
        expected = model.generate(**prompt, do_sample=False, max_new_tokens=20)[0, 4:]
    found = generate_text(model, tokenizer, "Why?", recipe=recipe, max_new_tokens=20)
    assert found.text == tokenizer.decode(expected, skip_special_tokens=True)
    assert found.achieved == density.achieved("decode") == pytest.approx(0.5, abs=0.1)
    assert found.text != generate_text(model, tokenizer, "Why?", max_new_tokens=20).text


def test_sampling_is_drawn_by_the_seed(model):
    def sample(seed: int, **options: float) -> str:
        return generate_text(
            model, tiny_tokenizer(), "Why?", temperature=1.0, seed=seed, max_new_tokens=20, **options
        ).text

    assert sample(1) == sample(1) != sample(2)
    greedy = generate_text(model, tiny_tokenizer(), "Why?", max_new_tokens=20).text
    assert sample(1, top_k=1) == sample(2, top_p=1e-6) == greedy


def test_a_recipe_for_decoding_only(model):
    recipe = TEAL(0.5, phases=Phases(prefill=False)).calibrate(model, tiny_tokenizer(), letters(0, 2200))
    found = generate_text(model, tiny_tokenizer(), "Why?", recipe=recipe, max_new_tokens=20)
    assert found.achieved == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": -1}, "temperature: -1 is not 0 or between"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k: -1"),
        ({"top_p": 0.0}, "top_p: 0.0"),
        ({"max_new_tokens": 1000}, "context of 128"),
    ],
)
def test_options_out_of_range_are_refused(model, options, said):
    with pytest.raises(InputError, match=said):
        generate_text(model, tiny_tokenizer(), "Why?", **options)


def test_a_recipe_of_another_model_is_refused(model):
    recipe = TEAL(sparsity=0.5).calibrate(model, tiny_tokenizer(), letters(0, 2200))
    with pytest.raises(InputError, match="calibrated on another model"):
        generate_text(tiny_model("llama", seed=1), tiny_tokenizer(), "Why?", recipe=recipe, max_new_tokens=2)
    with pytest.raises(InputError, match="calibrated on another model"):
        generate_text(model, tiny_tokenizer(), "Why?", recipe=replace(recipe, model="0"), max_new_tokens=2)


# Overlap.


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
