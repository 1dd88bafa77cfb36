"""Decoding over a shared prompt cache equals what transformers does without one."""

import copy

import pytest
import torch

from sparseact.masked.decoding import decode_greedily, evaluation_mode, pad_left, prefill, stop_tokens, teacher_force
from sparseact.testing import DISTINCT, EOS, PAD, float64_model, tiny_model

STEPS = 10
NEVER = frozenset()


@pytest.fixture(scope="module", params=DISTINCT)
def model(request):
    return float64_model(tiny_model(request.param))


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama")


def tokens(length, seed=0):
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(seed))


def generate(model, ids, mask, **options):
    found = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=STEPS, pad_token_id=PAD, **options)
    return found[:, ids.shape[1] :]


@pytest.mark.parametrize("length", [1, 9])
def test_greedy_decoding_equals_generate(model, length):
    ids = tokens(length)
    [found] = decode_greedily(model, prefill(model, ids), STEPS, NEVER)
    assert found.tolist() == generate(model, ids, torch.ones_like(ids), eos_token_id=None)[0].tolist()


def test_greedy_decoding_of_a_padded_batch_equals_generate_of_each(model):
    prompts = [tokens(length, seed=length) for length in (9, 4, 1)]
    ids, mask = pad_left(prompts, pad=PAD)
    batch = decode_greedily(model, prefill(model, ids, mask), STEPS, NEVER)
    together = generate(model, ids, mask, eos_token_id=None)
    for row, prompt in enumerate(prompts):
        alone = generate(model, prompt, torch.ones_like(prompt), eos_token_id=None)[0]
        assert batch[row].tolist() == alone.tolist() == together[row].tolist()


def test_teacher_forcing_equals_an_ordinary_forward(model):
    prompts = [tokens(length, seed=length) for length in (9, 4, 1)]
    label = torch.cat([tokens(STEPS, seed=20 + row) for row in range(3)])
    logits = teacher_force(model, prefill(model, *pad_left(prompts, pad=PAD)), label)
    assert logits.shape == (3, STEPS, 64)
    for row, prompt in enumerate(prompts):
        full = model(torch.cat([prompt, label[row : row + 1]], dim=1)).logits[0, prompt.shape[1] - 1 : -1]
        torch.testing.assert_close(logits[row], full, rtol=1e-9, atol=1e-9)


def test_a_repeated_prefix_gives_each_run_the_same(model):
    prompts = [tokens(9), tokens(4, seed=1)]
    prefix = prefill(model, *pad_left(prompts, pad=PAD))
    label = torch.cat([tokens(STEPS, seed=2), tokens(STEPS, seed=3)])
    once = teacher_force(model, prefix, label)
    thrice = teacher_force(model, prefix.repeat(3), label.repeat_interleave(3, dim=0))
    torch.testing.assert_close(thrice, once.repeat_interleave(3, dim=0), rtol=1e-9, atol=1e-9)


def test_the_prefix_is_left_as_it_was(model):
    prefix = prefill(model, tokens(9))
    before = copy.deepcopy(prefix)
    teacher_force(model, prefix, tokens(STEPS))
    decode_greedily(model, prefix, STEPS, NEVER)
    prefix.repeat(2)
    assert prefix.cache.get_seq_length() == before.cache.get_seq_length() == 8
    for layer, layer_before in zip(prefix.cache.layers, before.cache.layers, strict=True):
        assert torch.equal(layer.keys, layer_before.keys)
        assert torch.equal(layer.values, layer_before.values)
    assert torch.equal(prefix.attention_mask, before.attention_mask)
    assert torch.equal(prefix.last, before.last)


def test_a_text_ends_with_its_stop_token(llama):
    ids, mask = pad_left([tokens(9), tokens(4, seed=4)], pad=PAD)
    prefix = prefill(llama, ids, mask)
    free = [text.tolist() for text in decode_greedily(llama, prefix, STEPS, NEVER)]
    stop = free[0][3]
    expected = [text[: text.index(stop) + 1] if stop in text else text for text in free]
    assert len(expected[0]) < STEPS
    assert [text.tolist() for text in decode_greedily(llama, prefix, STEPS, frozenset([stop]))] == expected
    transformers_text = generate(llama, ids, mask, eos_token_id=stop)
    for text, row in zip(expected, transformers_text.tolist(), strict=True):
        assert row[: len(text)] == text
        assert set(row[len(text) :]) <= {PAD}


def test_decoding_ends_when_all_texts_have(llama):
    prefix = prefill(llama, tokens(9))
    [free] = decode_greedily(llama, prefix, STEPS, NEVER)
    steps = []
    decode_greedily(llama, prefix, STEPS, frozenset(free.tolist()), before_step=steps.append)
    assert steps == [0]


def test_before_step_is_called_before_each_step(llama):
    steps = []
    decode_greedily(llama, prefill(llama, tokens(3)), 4, NEVER, before_step=steps.append)
    assert steps == [0, 1, 2, 3]


def test_stop_tokens_come_from_the_generation_config():
    model = tiny_model("llama")
    assert stop_tokens(model) == {EOS}
    model.generation_config.eos_token_id = [2, 5]
    assert stop_tokens(model) == {2, 5}
    model.generation_config.eos_token_id = None
    assert stop_tokens(model) == set()


def test_pad_left():
    ids, mask = pad_left([torch.tensor([[7, 8, 9]]), torch.tensor([[5]])], pad=0)
    assert ids.tolist() == [[7, 8, 9], [0, 0, 5]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_mode_comes_back_to_what_was(training):
    model = tiny_model("gpt2").train(training)
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not model.training
        raise ZeroDivisionError
    assert model.training is training
