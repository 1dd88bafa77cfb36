"""What the engine draws from is what transformers' logits processors leave."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sparseact.errors import InputError
from sparseact.generation.sampler import Sampler, candidates, penalise
from sparseact.generation.sampling import Sampling


def probabilities(logits, sampling, seen=()):
    tokens, scaled = candidates(penalise(logits, seen, sampling.repetition_penalty), sampling)
    dense = np.zeros(len(logits))
    dense[tokens] = np.exp(scaled)
    return dense / dense.sum()


def probabilities_of_transformers(logits, sampling, seen=()):
    """In the order in which `generate` puts the processors; in float64, as ours."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.repetition_penalty != 1:
        processors.insert(0, RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    text = torch.tensor([list(seen)], dtype=torch.int64)
    return processors(text, torch.from_numpy(logits).double()[None])[0].softmax(-1).numpy()


samplings = st.builds(
    Sampling,
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.3]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 7, 300, 20_000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 1e-6]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)


@settings(max_examples=150, deadline=None)
@given(
    sampling=samplings,
    size=st.sampled_from([1, 5, 300, 9000]),
    spread=st.sampled_from([0.1, 3.0]),
    seed=st.integers(0, 9),
)
def test_the_distribution_is_that_of_transformers(sampling, size, spread, seed):
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, size).astype(np.float32)
    seen = random.integers(0, size, 8).tolist()  # some of them twice
    ours, theirs = (f(logits, sampling, seen) for f in (probabilities, probabilities_of_transformers))
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("option", [{"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"repetition_penalty": 2.0}])
def test_every_option_changes_what_is_drawn_from(option):
    """So that the parity above is not one of options that do nothing."""
    logits = np.array([2.0, 1.5, 1.0, 0.5, -1.0], np.float32)
    plain = probabilities(logits, Sampling(temperature=1.0), seen=[0])
    assert not np.allclose(plain, probabilities(logits, Sampling(temperature=1.0, **option), seen=[0]))


def test_what_is_drawn_has_those_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1.0, top_k=3, seed=1))
    counts = np.bincount([sampler.choose(logits, []) for _ in range(20_000)], minlength=4)
    expected = np.array([0.5, 0.3, 0.15, 0]) / 0.95
    assert counts[3] == 0
    np.testing.assert_allclose(counts / 20_000, expected, atol=4 * 0.5 / 20_000**0.5)


def test_the_seed_decides():
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)

    def drawn(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(logits, []) for _ in range(20)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(-1) == drawn(-1)


def test_greedy_takes_the_first_of_equals_as_torch_does():
    logits = np.array([0.0, 3.0, 1.0, 3.0], np.float32)
    assert Sampler(Sampling()).choose(logits, []) == int(torch.from_numpy(logits).argmax()) == 1


def test_greedy_with_a_penalty_leaves_what_was_said():
    logits = np.array([2.0, 3.0, -1.0], np.float32)
    assert Sampler(Sampling(repetition_penalty=2.0)).choose(logits, [1, 1]) == 0
    assert logits.tolist() == [2, 3, -1]  # the engine's logits are as they were


def test_a_small_temperature_is_greedy_and_not_a_number_out_of_range():
    logits = np.array([10.0, 1000.0, 999.0], np.float32)
    assert Sampler(Sampling(temperature=1e-6)).choose(logits, []) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(temperature, bad):
    logits = np.array([1.0, bad], np.float32)
    with pytest.raises(InputError, match="logits are not finite"):
        Sampler(Sampling(temperature=temperature)).choose(logits, [])
