"""Text from a model of transformers: greedily that of its `generate`, with nothing of its generation config."""

import random
from dataclasses import replace

import pytest
import torch

from sparseact import generate
from sparseact.errors import InputError
from sparseact.generation.backend import Backend
from sparseact.generation.masked import masked
from sparseact.policies import TEAL, Griffin, Phases
from sparseact.testing import DISTINCT, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def letters(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice("abcdefghij klmnopqrs, tuvwxyz.") for _ in range(count))


def text_of(tokenizer, prompt, answer):
    """What an answer adds to the text of a prompt."""
    return tokenizer.decode([*prompt, *answer], skip_special_tokens=True)[len(tokenizer.decode(prompt)) :]


def of_transformers(model, prompt, tokens, **options):
    """The greedy answer of transformers to the ids of a prompt."""
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "max_new_tokens": tokens, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", DISTINCT)
def test_greedy_text_is_that_of_transformers(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    prompt = tokenizer("Why is it so?").input_ids
    expected = of_transformers(model, prompt, 24)
    found = generate(model, tokenizer, "Why is it so?", max_new_tokens=24)
    assert (found.text, found.tokens) == (text_of(tokenizer, prompt, expected), len(expected))


def test_a_model_without_a_cache_of_keys_and_values_reads_all_again():
    from transformers import AutoModelForCausalLM, OpenAIGPTConfig

    names = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OpenAIGPTConfig(**names, initializer_range=0.4)).eval()
    prompt = tiny_tokenizer()("Why?").input_ids
    found = generate(model, tiny_tokenizer(), "Why?", max_new_tokens=12)
    assert found.text == text_of(tiny_tokenizer(), prompt, of_transformers(model, prompt, 12))


@pytest.mark.parametrize(
    "said",
    [
        {"num_beams": 3},
        {"sequence_bias": {(5,): 100.0}},
        {"exponential_decay_length_penalty": (1, 9.0)},
        {"max_time": 0.0},
        {"max_length": 6},
        {"min_new_tokens": 30, "suppress_tokens": list(range(30))},
        {"typical_p": 0.2, "top_k": 2, "top_p": 0.1, "temperature": 0.01},
        {"return_dict_in_generate": True, "output_scores": True},
        {"num_return_sequences": 2},
        {"stop_strings": ["a", "b", "c"]},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"do_sample": True, "repetition_penalty": 3.0, "no_repeat_ngram_size": 1},
        {"cache_implementation": "static", "use_cache": False},
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_generation_config_has_no_say(model, said, temperature):
    configured = tiny_model("llama")
    for key, value in said.items():
        setattr(configured.generation_config, key, value)
    one, two = (
        generate(which, tiny_tokenizer(), "Why?", max_new_tokens=16, temperature=temperature)
        for which in (model, configured)
    )
    assert (one.text, one.tokens) == (two.text, two.tokens)


def test_every_end_of_the_generation_config_ends_a_text():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    tokens = of_transformers(model, tokenizer("Why?").input_ids, 20)
    model.generation_config.eos_token_id = [2, tokens[7]]
    found = generate(model, tokenizer, "Why?", max_new_tokens=20)
    assert found.tokens == tokens.index(tokens[7]) + 1
    assert generate(model, tokenizer, "Why?", max_new_tokens=20, ends=()).tokens == 20


def test_pieces_of_text_add_up_to_the_text(model):
    pieces = []
    found = generate(model, tiny_tokenizer(), "Why?", max_new_tokens=20, on_text=pieces.append)
    assert "".join(pieces) == found.text
    assert len(pieces) > 10
    assert (found.prompt_tokens, found.achieved) == (4, 0)


def test_under_a_recipe_it_equals_transformers(model):
    tokenizer = tiny_tokenizer()
    prompt = tokenizer("Why?").input_ids
    recipe = TEAL(sparsity=0.5).calibrate(model, tokenizer, letters(0, 2200))
    with recipe(model) as density:
        expected = of_transformers(model, prompt, 20)
    found = generate(model, tokenizer, "Why?", recipe=recipe, max_new_tokens=20)
    assert found.text == text_of(tokenizer, prompt, expected)
    assert found.achieved == density.achieved("decode") == pytest.approx(0.5, abs=0.1)
    assert found.bytes_per_token == density.bytes_per_token("decode")
    assert found.text != generate(model, tokenizer, "Why?", max_new_tokens=20).text


def test_hooks_are_there_in_the_block_only_and_every_text_begins_anew(model):
    recipe = Griffin(sparsity=0.5).calibrate(model, tiny_tokenizer(), letters(0, 2200))
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    with masked(model, recipe) as backend:
        texts = []
        for _ in range(2):
            backend.reset()
            backend.prefill([5, 6, 7])
            texts.append((backend.greedy(9), backend.position, backend.achieved()))
        assert texts[0] == texts[1]
        assert texts[0][1:] == (12, pytest.approx(0.5, abs=0.05))
        assert isinstance(backend, Backend)
    assert torch.equal(model(ids).logits, before)
    assert not model._forward_pre_hooks


def test_steps_and_greedy_tokens_may_be_mixed(model):
    with masked(model) as backend:
        first = int(backend.prefill([5, 6, 7]).argmax())
        tokens = [first, int(backend.step(first).argmax())]
        tokens.append(int(backend.step(tokens[-1]).argmax()))
        backend.reset()
        backend.prefill([5, 6])
        backend.step(7)
        assert backend.greedy(2) == tokens[:2]


def test_sampling_is_drawn_by_the_seed(model):
    def sample(seed: int, **options: float) -> str:
        return generate(model, tiny_tokenizer(), "Why?", temperature=1.0, seed=seed, max_new_tokens=20, **options).text

    assert sample(1) == sample(1) != sample(2)
    greedy = generate(model, tiny_tokenizer(), "Why?", max_new_tokens=20).text
    assert sample(1, top_k=1) == sample(2, top_p=1e-6) == greedy


def test_a_recipe_for_decoding_only(model):
    recipe = TEAL(0.5, phases=Phases(prefill=False)).calibrate(model, tiny_tokenizer(), letters(0, 2200))
    found = generate(model, tiny_tokenizer(), "Why?", recipe=recipe, max_new_tokens=20)
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
        generate(model, tiny_tokenizer(), "Why?", **options)


def test_a_recipe_of_another_model_is_refused(model):
    recipe = TEAL(sparsity=0.5).calibrate(model, tiny_tokenizer(), letters(0, 2200))
    with pytest.raises(InputError, match="calibrated on another model"):
        generate(tiny_model("llama", seed=1), tiny_tokenizer(), "Why?", recipe=recipe, max_new_tokens=2)
    with pytest.raises(InputError, match="calibrated on another model"):
        generate(model, tiny_tokenizer(), "Why?", recipe=replace(recipe, model="0"), max_new_tokens=2)


def test_a_weight_that_is_no_number_is_said():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(InputError, match="logits are not finite"):
        generate(model, tiny_tokenizer(), "Why?", max_new_tokens=2)
