"""One forward and one backward give what a plain loop over tokens gives, exactly."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface

from sparseact.attribution import IGNORED, attribute_in_one_pass
from sparseact.attribution.own_position import own_position_attention
from sparseact.errors import InputError
from sparseact.masked.decoding import pad_left, prefill, teacher_force
from sparseact.sites import capture, find_sites
from sparseact.testing import DISTINCT, SLIDING_WINDOW, float64_model, tiny_model

PROMPT, STEPS = 9, 6  # both longer than the sliding window
assert min(PROMPT, STEPS) > SLIDING_WINDOW


@pytest.fixture(scope="module", params=DISTINCT)
def exact(request):
    """A tiny model of every family in float64."""
    return float64_model(tiny_model(request.param))


@pytest.fixture
def llama():
    return tiny_model("llama")


def tokens(length, seed=0):
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(seed))


def per_token(model, sites, prompt, label, target=None):
    """The definition: for each token one uncached forward and one backward of its loss alone.

    Returns x and gradient [1, T, units, unit_size] by site. Uses none of the code that it judges.
    """
    linears = {site: model.get_submodule(site.module) for site in sites}
    nth = {  # how many earlier blocks run the same linear
        site: sum(linears[other] is linears[site] for other in sites if other.layer < site.layer) for site in sites
    }
    text = torch.cat([prompt, label], dim=1)
    target = label if target is None else target
    x, gradient = ({site: [] for site in sites} for _ in range(2))
    for step in range(label.shape[1]):
        calls = {linear: [] for linear in linears.values()}

        def tap(linear, args, calls=calls):
            if not calls[linear] and not args[0].requires_grad:  # frozen weights: the graph begins here
                args = (args[0].detach().requires_grad_(),)
            calls[linear].append(args[0])
            return args

        hooks = [linear.register_forward_pre_hook(tap) for linear in calls]
        logits = model(text[:, : prompt.shape[1] + step]).logits[:, -1]
        for hook in hooks:
            hook.remove()
        taps = [calls[linears[site]][nth[site]] for site in sites]
        gradients = torch.autograd.grad(cross_entropy(logits, target[:, step]), taps)
        for site, tapped, slope in zip(sites, taps, gradients, strict=True):
            last = (
                tapped.detach().reshape(-1, site.units * site.unit_size)[-1],
                slope.reshape(-1, tapped.shape[-1])[-1],
            )
            x[site].append(site.split(last[0]))
            gradient[site].append(site.split(last[1]))
    return tuple({site: torch.stack(rows)[None] for site, rows in part.items()} for part in (x, gradient))


def assert_equal(found, expected, tolerance):
    """Largest difference as a share of the largest value, site by site."""
    assert found.keys() == expected.keys()
    for site in expected:
        assert found[site].shape == expected[site].shape
        scale = expected[site].abs().max()
        assert scale > 0
        assert (found[site] - expected[site]).abs().max() <= tolerance * scale, site.name


# Exactness


@pytest.mark.parametrize("prompt_tokens", [PROMPT, 1])
def test_equal_to_the_per_token_loop(exact, prompt_tokens):
    sites = find_sites(exact)
    prompt, label = tokens(prompt_tokens), tokens(STEPS, seed=1)
    found = attribute_in_one_pass(exact, sites, prefill(exact, prompt), label)
    x, gradient = per_token(exact, sites, prompt, label)
    assert_equal(found.x, x, 1e-9)
    assert_equal(found.gradient, gradient, 1e-9)


def test_equal_to_the_per_token_loop_for_another_target(exact):
    """The leakage control: the label is read, the loss of other tokens is differentiated."""
    sites = find_sites(exact)
    prompt, label, target = tokens(PROMPT), tokens(STEPS, seed=1), tokens(STEPS, seed=2)
    found = attribute_in_one_pass(exact, sites, prefill(exact, prompt), label, target=target)
    assert_equal(found.gradient, per_token(exact, sites, prompt, label, target)[1], 1e-9)


def test_logits_are_the_models_own(exact):
    prompt, label = tokens(PROMPT), tokens(STEPS, seed=1)
    found = attribute_in_one_pass(exact, find_sites(exact), prefill(exact, prompt), label)
    with torch.no_grad():
        usual = exact(torch.cat([prompt, label], dim=1)).logits[:, PROMPT - 1 : -1]
    torch.testing.assert_close(found.logits, usual, rtol=1e-9, atol=1e-9)


def test_the_plain_gradient_of_the_sum_is_not_it(llama):
    """Without cutting the edges between positions the gradient is another one: the test above can fail."""
    model = float64_model(llama)
    sites = find_sites(model)
    prompt, label = tokens(PROMPT), tokens(STEPS, seed=1)
    with capture(model, sites, gradient=True) as x:
        logits = model(torch.cat([prompt, label], dim=1)).logits[0, PROMPT - 1 : -1]
        slope = torch.autograd.grad(cross_entropy(logits, label[0], reduction="sum"), x[sites[0]])[0]
    exact = per_token(model, sites, prompt, label)[1][sites[0]]
    assert (slope[:, PROMPT - 1 : -1] - exact).abs().max() > 0.1 * exact.abs().max()


def test_a_padded_batch_equals_each_prompt_alone(exact):
    sites = find_sites(exact)
    prompts = [tokens(length, seed=length) for length in (PROMPT, 5, 1)]
    labels = [tokens(length, seed=10 + length)[0] for length in (3, STEPS, 2)]
    padded = pad_sequence(labels, batch_first=True, padding_value=IGNORED)
    batch = attribute_in_one_pass(exact, sites, prefill(exact, *pad_left(prompts, pad=0)), padded)
    for row, (prompt, label) in enumerate(zip(prompts, labels, strict=True)):
        alone = attribute_in_one_pass(exact, sites, prefill(exact, prompt), label[None])
        for part in ("x", "gradient"):
            mine = {site: getattr(batch, part)[site][row : row + 1, : len(label)] for site in sites}
            assert_equal(mine, getattr(alone, part), 1e-9)
        torch.testing.assert_close(batch.logits[row, : len(label)], alone.logits[0], rtol=1e-9, atol=1e-9)
        for site in sites:  # a padded step has no loss
            assert not batch.gradient[site][row, len(label) :].any()


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_a_window_that_hides_the_prompt(family):
    """A label several windows long: the cache has dropped the prompt long before the end."""
    exact = float64_model(tiny_model(family))
    assert exact.config.sliding_window == SLIDING_WINDOW
    sites = find_sites(exact)
    prompt, label = tokens(3), tokens(4 * SLIDING_WINDOW, seed=1)
    found = attribute_in_one_pass(exact, sites, prefill(exact, prompt), label)
    assert_equal(found.gradient, per_token(exact, sites, prompt, label)[1], 1e-9)


def test_softcap_and_final_cap_are_at_work():
    """Gemma 2's caps, which the comparison with the loop relies on, do change its logits."""
    model = float64_model(tiny_model("gemma2"))
    with torch.no_grad():
        capped = model(tokens(PROMPT)).logits
        for block in model.model.layers:
            block.self_attn.attn_logit_softcapping = None
        assert (model(tokens(PROMPT)).logits - capped).abs().max() > 1e-3
    assert capped.abs().max() < 5


# Other precisions, real weights


@pytest.mark.parametrize("family", DISTINCT)
def test_float32_is_close_to_the_loop(family):
    model = tiny_model(family)
    sites = find_sites(model)
    prompt, label = tokens(PROMPT), tokens(STEPS, seed=1)
    found = attribute_in_one_pass(model, sites, prefill(model, prompt), label)
    assert_equal(found.gradient, per_token(model, sites, prompt, label)[1], 1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2"])
def test_bfloat16_runs_and_points_the_same_way(family):
    prompt, label = tokens(PROMPT), tokens(STEPS, seed=1)
    model = tiny_model(family)
    sites = find_sites(model)
    exact = attribute_in_one_pass(model, sites, prefill(model, prompt), label).gradient
    model = model.bfloat16()
    sites16 = find_sites(model)
    found = attribute_in_one_pass(model, sites16, prefill(model, prompt), label).gradient
    for site, site16 in zip(sites, sites16, strict=True):
        assert found[site16].dtype == torch.bfloat16
        similarity = torch.cosine_similarity(found[site16].float().flatten(), exact[site].flatten(), dim=0)
        assert similarity > 0.9, site.name


@pytest.mark.smollm2
def test_the_real_model(smollm2):
    model, tokenizer = smollm2
    sites = find_sites(model)
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    # At least 4 steps: for fewer, torch's CPU kernel for the lm_head's backward adds up 49,152 terms one
    # by one, and the gradient of either method is off by 2e-4.
    label = tokenizer(" Paris, the largest city", return_tensors="pt").input_ids
    found = attribute_in_one_pass(model, sites, prefill(model, prompt), label)
    with torch.no_grad():
        usual = model(torch.cat([prompt, label], dim=1)).logits[:, prompt.shape[1] - 1 : -1]
    assert (found.logits - usual).abs().max() <= 1e-4 * usual.abs().max()
    x, gradient = per_token(model, sites, prompt, label)
    assert_equal(found.x, x, 1e-4)
    assert_equal(found.gradient, gradient, 1e-4)


# What is left behind: nothing


def test_frozen_parameters_give_the_same(exact):
    sites = find_sites(exact)
    prompt, label = tokens(PROMPT), tokens(STEPS, seed=1)
    trainable = attribute_in_one_pass(exact, sites, prefill(exact, prompt), label)
    exact.requires_grad_(False)
    try:
        frozen = attribute_in_one_pass(exact, sites, prefill(exact, prompt), label)
        heads = find_sites(exact, "heads")[1:]  # nothing before the first tap has a graph
        part = attribute_in_one_pass(exact, heads, prefill(exact, prompt), label)
    finally:
        exact.requires_grad_(True)
    assert_equal(frozen.gradient, trainable.gradient, 1e-12)
    assert_equal(part.gradient, {site: trainable.gradient[site] for site in heads}, 1e-12)


def test_results_hold_no_graph_and_parameters_no_gradient(llama):
    sites = find_sites(llama)
    with torch.no_grad():  # a caller's own no_grad does not matter
        found = attribute_in_one_pass(llama, sites, prefill(llama, tokens(PROMPT)), tokens(STEPS))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in llama.parameters())
    for tensor in (*found.x.values(), *found.gradient.values(), found.logits):
        assert not tensor.requires_grad
    assert not any(tensor.requires_grad for pair in found.keys_values.values() for tensor in pair)


def test_the_prefix_can_be_used_again(exact):
    sites = find_sites(exact)
    prefix, label = prefill(exact, tokens(PROMPT)), tokens(STEPS)
    first = attribute_in_one_pass(exact, sites, prefix, label)
    second = attribute_in_one_pass(exact, sites, prefix, label)
    assert all(torch.equal(first.gradient[site], second.gradient[site]) for site in sites)


def state(model):
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    tables = [dict(table._global_mapping) for table in (AttentionInterface, AttentionMaskInterface)]
    return model.config._attn_implementation, hooks, tables


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_and_tables_are_restored(llama, attention):
    llama.set_attn_implementation(attention)
    before = state(llama)
    attribute_in_one_pass(llama, find_sites(llama), prefill(llama, tokens(PROMPT)), tokens(STEPS))
    assert state(llama) == before


def test_attention_and_tables_are_restored_after_an_exception(llama):
    before = state(llama)
    prefix = prefill(llama, tokens(PROMPT))
    with pytest.raises(IndexError):
        attribute_in_one_pass(llama, find_sites(llama), prefix, torch.tensor([[5, 64, 5]]))  # no such token
    assert state(llama) == before
    with pytest.raises(ZeroDivisionError), own_position_attention(llama):
        assert state(llama) != before
        raise ZeroDivisionError
    assert state(llama) == before


def test_contexts_of_two_models_do_not_mix(llama):
    """Each context registers a name of its own."""
    other = tiny_model("phi")
    prompt, label = tokens(PROMPT), tokens(STEPS)
    record, record_other = {}, {}
    with own_position_attention(llama, record=record), own_position_attention(other, record=record_other):
        teacher_force(llama, prefill(llama, prompt), label)
        teacher_force(other, prefill(other, prompt), label)
    assert record.keys() == record_other.keys() == {0, 1, 2}
    assert record[0][0].shape[1] == 2  # key heads of grouped attention
    assert record_other[0][0].shape[1] == 4


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_refused(llama, broken):
    def spoil(_, __, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * broken)

    hook = llama.model.norm.register_forward_hook(spoil)
    with pytest.raises(InputError, match=r"the gradient at model\.layers\.\d\.\w+\.\w+ is not finite"):
        attribute_in_one_pass(llama, find_sites(llama), prefill(llama, tokens(PROMPT)), tokens(STEPS))
    hook.remove()
    llama.model.layers[1].mlp.gate_proj.weight.data[0, 0] = broken
    with pytest.raises(InputError, match="the model's logits are not finite"):
        attribute_in_one_pass(llama, find_sites(llama), prefill(llama, tokens(PROMPT)), tokens(STEPS))
