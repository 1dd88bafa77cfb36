"""What the methods assume of a model is tried once on a few tokens, and a model that breaks it is refused in a line."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import sparseact as sa
from sparseact.attribution.assumption import check_assumption
from sparseact.data import check_context, context_of
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.masked.cache_check import check_cache
from sparseact.policies import TEAL
from sparseact.sites import find_channels, find_sites
from sparseact.testing import FAMILIES, tiny_model, tiny_tokenizer
from sparseact.testing.tiny import TINY

TEXT = "the quick brown fox jumps over the lazy dog. " * 50


PAST_ATTENTION = {"lfm2", "qwen3.5", "falcon-h1", "granite4-h", "mamba", "mamba2"}
"""Families whose positions meet in convolutions or states too: tests/models/test_hybrids.py."""


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in PAST_ATTENTION])
def test_the_families_keep_what_is_assumed(family):
    model = tiny_model(family)
    check_cache(model)
    check_assumption(model, [*find_sites(model), *find_channels(model)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_narrow_types_do_too(dtype):
    model = tiny_model("llama").to(dtype)
    check_cache(model)
    check_assumption(model, find_sites(model))


def mixing(place, share):
    """A model in which a module hands on a share of what it put out for the token before, as a convolution does."""
    model = tiny_model("llama")

    def mix(_, __, output):
        before = torch.nn.functional.pad(output, (0, 0, 1, 0))[:, :-1]
        return output + share * before

    model.get_submodule(place).register_forward_hook(mix)
    return model


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_positions_that_leak_past_the_cut_are_refused(share, monkeypatch):
    model = mixing("model.layers.1.mlp", share)
    monkeypatch.setattr("sparseact.masked.decoding.check_cache", lambda _: None)  # it has no cache for that either
    with pytest.raises(UnsupportedModelError, match=r"has a gradient at others in .* past the cut") as said:
        sa.attribute(model, tiny_tokenizer(), "Why?", max_new_tokens=3)
    assert len(str(said.value)) < 250
    with pytest.raises(UnsupportedModelError, match="past the cut"):  # the second time without a trial
        sa.attribute(model, tiny_tokenizer(), "Why?", max_new_tokens=3)


def test_a_gradient_that_the_cut_loses_is_refused():
    """As a mask that is computed from the values, and detached."""
    model = tiny_model("llama")
    attention = model.model.layers[2].self_attn

    def scale(module, args, kwargs, output):
        named = module.config._attn_implementation.startswith("sparseact")
        return (output[0] * 1.5 - 0.5 * (output[0].detach() if named else output[0]), *output[1:])

    attention.register_forward_hook(scale, with_kwargs=True)
    with pytest.raises(UnsupportedModelError, match=r"at its own position is another in .* with the cut"):
        sa.attribute(model, tiny_tokenizer(), "Why?", max_new_tokens=3)


def test_doge_whose_mask_is_made_of_values_is_refused():
    model = made("doge", num_experts=0)
    with pytest.raises(UnsupportedModelError, match="so one pass does not give the gradients"):
        sa.attribute(model, tiny_tokenizer(), "Why?", max_new_tokens=3)


def made(kind, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**TINY, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_a_model_that_ignores_its_cache_is_refused_where_the_cache_is_used():
    """GPT-1 does; and one that keeps no position of the tokens before."""
    gpt = made("openai-gpt", n_embd=32, n_head=4, n_layer=2, n_positions=64)
    forgetful = tiny_model("llama")
    forgetful.model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, kwargs | {"past_key_values": None}), with_kwargs=True
    )
    for model in (gpt, forgetful):
        with pytest.raises(UnsupportedModelError, match="logits differ with cached keys and values, on which"):
            sa.attribute(model, tiny_tokenizer(), "Why?", max_new_tokens=3)
        with pytest.raises(UnsupportedModelError, match="logits differ with cached"):
            sa.evaluate(model, tiny_tokenizer(), TEXT, context=32, limit=1)
    assert sa.generate(gpt, tiny_tokenizer(), "Why?", max_new_tokens=3).tokens == 3  # which reads all again


def test_a_model_is_tried_once(monkeypatch):
    model, runs = tiny_model("llama"), []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    check_cache(model)
    check_assumption(model, find_sites(model))
    first = len(runs)
    check_cache(model)
    check_assumption(model, find_sites(model, "mlp"))
    assert (first > 0, len(runs)) == (True, first)


# The context ends where a rotary embedding takes other frequencies for all of a text

LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
LONG |= {"original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        (LONG, 16),
        (LONG | {"long_factor": [1.0] * 4}, 128),
        ({"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 16}, 16),
        ({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 16}, 128),
        ({"rope_type": "default"}, 128),
        ({"full_attention": LONG, "sliding_attention": {"rope_type": "default"}}, 16),
    ],
)
def test_the_context_of_a_config(rope, context):
    config = AutoConfig.for_model("llama", **TINY)
    config.rope_parameters = rope
    assert context_of(config) == context
    check_context(config, context - 2, 2, 0)
    with pytest.raises(InputError, match=f"more than the model's context of {context} tokens"):
        check_context(config, context - 2, 3, 0)


def test_longrope_ends_at_the_switch_and_is_right_before_it():
    model, tokenizer = made("phi3", rope_parameters=LONG, original_max_position_embeddings=16), tiny_tokenizer()
    with pytest.raises(InputError, match="context of 16 tokens"):
        sa.attribute(model, tokenizer, "abcdefghijkl", max_new_tokens=20)
    with pytest.raises(InputError, match="context of 16 tokens"):
        sa.generate(model, tokenizer, "abcdefghijkl", max_new_tokens=20)
    found = sa.attribute(model, tokenizer, "abcdefghi", max_new_tokens=7)
    ids = found.prompt_tokens[None]
    wanted = model.generate(ids, do_sample=False, max_new_tokens=len(found.tokens), pad_token_id=0)
    assert found.tokens.tolist() == wanted[0, ids.shape[1] :].tolist()
    dense = TEAL(sparsity=0.0).calibrate(model, tokenizer, TEXT)
    evaluation = sa.evaluate(model, tokenizer, TEXT, recipe=dense, context=64, phase="decode", limit=3)
    assert (evaluation.context, evaluation.kl < 1e-5) == (16, True)


def test_a_sparse_model_is_not_tried():
    """Single tokens are sparse there, and several at once are not."""
    from sparseact.masked.decoding import prefill
    from sparseact.policies import Phases

    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    recipe = TEAL(sparsity=0.9, phases=Phases(prefill=False)).calibrate(model, tokenizer, TEXT)
    with recipe(model):
        prefill(model, torch.tensor([[5, 6, 7]]))
    prefill(model, torch.tensor([[5, 6, 7]]))
