"""Text that a model writes to be calibrated on."""

import pytest
import torch

from sparseact.data import builtin_questions
from sparseact.errors import InputError
from sparseact.policies import TEAL, write_text
from sparseact.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def test_it_is_questions_and_sampled_answers(model):
    text = write_text(model, tiny_tokenizer(), tokens=300)
    assert [row["question"] in text for row in builtin_questions()[:8]] == [True] * 8
    assert len(tiny_tokenizer()(text).input_ids) > 300
    assert "<s>" not in text


def test_it_is_drawn_by_the_seed_alone(model):
    torch.manual_seed(1)
    first = write_text(model, tiny_tokenizer(), tokens=100, seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn  # the caller's generator is where it was
    assert write_text(model, tiny_tokenizer(), tokens=100, seed=3) == first
    assert write_text(model, tiny_tokenizer(), tokens=100, seed=4) != first


def test_it_is_enough_to_calibrate_on(model):
    text = write_text(model, tiny_tokenizer())
    assert TEAL(sparsity=0.4).calibrate(model, tiny_tokenizer(), text).meta["calibration"]["tokens"] > 1900


def test_a_context_too_short_for_a_question_is_refused():
    model = tiny_model("llama")
    model.config.max_position_embeddings = 8
    with pytest.raises(InputError, match="context of 8 tokens is too short"):
        write_text(model, tiny_tokenizer())


@pytest.mark.parametrize(
    "said",
    [
        {"num_beams": 3},
        {"typical_p": 0.2, "epsilon_cutoff": 0.3, "temperature": 0.1, "min_p": 0.5},
        {"sequence_bias": {(5,): 100.0}, "exponential_decay_length_penalty": (1, 9.0), "min_new_tokens": 50},
        {"return_dict_in_generate": True, "num_return_sequences": 2, "stop_strings": ["a"], "max_time": 0.0},
    ],
)
def test_a_generation_config_has_no_say_but_of_what_ends_a_text(said):
    model, plain = tiny_model("llama"), tiny_model("llama")
    for key, value in said.items():
        setattr(model.generation_config, key, value)
    before = model.generation_config.to_dict()
    assert write_text(model, tiny_tokenizer(), tokens=100) == write_text(plain, tiny_tokenizer(), tokens=100)
    assert model.generation_config.to_dict() == before
    plain.generation_config.eos_token_id = [2, 7]
    assert write_text(model, tiny_tokenizer(), tokens=100) != write_text(plain, tiny_tokenizer(), tokens=100)
