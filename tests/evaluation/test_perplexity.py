"""Perplexity, KL and what was read, against a slow reference: one pass without a cache per predicted token."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import log_softmax

from sparseact.data.windows import cut_text
from sparseact.errors import InputError
from sparseact.evaluation import evaluate, logits
from sparseact.masked.recipe import fingerprint_of
from sparseact.policies import POLICIES, TEAL, Phases
from sparseact.sites import find_channels
from sparseact.testing import BOS, tiny_model, tiny_tokenizer

TEXT = "How vexingly quick daft zebras jump! Pack my box with five dozen liquor jugs, said the wizard. " * 3
OTHER = "Sphinx of black quartz, judge my vow. Jackdaws love my big sphinx of quartz. " * 12


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama").double()  # no mask flips by rounding


@pytest.fixture(scope="module")
def recipe(model):
    return TEAL(sparsity=0.5).calibrate(model, tiny_tokenizer(), OTHER)


@torch.no_grad()
def predict(model, context: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the token after a context [tokens]."""
    return log_softmax(model(context[None], use_cache=False).logits[0, -1].float(), dim=-1)


def reference(model, recipe, *, context: int, stride: int, text: str = TEXT):
    """Every token predicted once, from what its window holds before it."""
    ids = tiny_tokenizer()(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
    nll = nll_dense = kl = agreed = predicted = 0
    for start in range(0, len(ids), stride):
        end = min(start + context - 1, len(ids))
        for place in range(predicted, end):
            seen = torch.cat([torch.tensor([BOS]), ids[start:place]])
            dense = predict(model, seen)
            with recipe(model):
                sparse = predict(model, seen)
            nll -= float(sparse[ids[place]])
            nll_dense -= float(dense[ids[place]])
            kl += float((dense.exp() * (dense - sparse)).sum())
            agreed += int(dense.argmax() == sparse.argmax())
        predicted = end
        if end == len(ids):
            break
    count = len(ids)
    return math.exp(nll / count), math.exp(nll_dense / count), kl / count, agreed / count, count


@pytest.mark.parametrize(("context", "stride"), [(64, 63), (64, 20), (500, 63)])
def test_equals_the_slow_reference(model, recipe, context, stride):
    found = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=context, stride=stride, progress=False)
    expected = reference(model, recipe, context=min(context, 128), stride=stride)
    got = (found.perplexity, found.perplexity_dense, found.kl, found.agreement, found.tokens)
    assert got == pytest.approx(expected, rel=1e-5)
    assert (found.context, found.stride, found.phase) == (min(context, 128), stride, "prefill")


def test_a_large_vocabulary_is_read_in_pieces(model, recipe, monkeypatch):
    whole = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=64, stride=20)
    sizes = []
    hook = model.lm_head.register_forward_hook(lambda *call: sizes.append(call[2].numel()))
    monkeypatch.setattr(logits, "LOGITS_AT_ONCE", 64 * 10)
    pieces = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=64, stride=20)
    hook.remove()
    assert max(sizes) <= 64 * 10
    assert pieces.kl == pytest.approx(whole.kl, rel=1e-6)
    assert pieces.perplexity == pytest.approx(whole.perplexity, rel=1e-6)
    assert pieces.achieved_by_phase.keys() == {"prefill"}  # no piece of one token


def test_decoding_one_by_one_predicts_the_same(model, recipe):
    together = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=64, stride=32, phase="prefill")
    stepwise = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=64, stride=32, phase="decode")
    assert together.tokens - stepwise.tokens == 63 - 32  # the first window's first half is its prompt
    assert stepwise.perplexity == pytest.approx(together.perplexity, rel=0.05)
    assert stepwise.achieved_by_phase.keys() == {"prefill", "decode"}


@pytest.mark.parametrize("stride", [1, 20, 63])
def test_decoding_equals_one_pass_over_each_window(model, recipe, stride):
    """TEAL does not tell the phases apart, so that the predicted tokens alone decide."""
    cut = cut_text(tiny_tokenizer(), TEXT[:150], context=64, stride=stride, decode=True)
    losses = []
    for window in cut:
        with recipe(model), torch.no_grad():
            log = log_softmax(model(torch.tensor([window.ids])).logits[0].float(), dim=-1)
        label = torch.tensor(window.ids[window.first :])
        losses += (-log[window.first - 1 : -1].gather(-1, label[:, None])).flatten().tolist()
    found = evaluate(model, tiny_tokenizer(), TEXT[:150], recipe=recipe, context=64, stride=stride, phase="decode")
    assert found.tokens == len(losses)
    assert found.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)


def test_a_recipe_for_decoding_only_is_measured_while_decoding(model):
    for policy in (POLICIES["griffin"](sparsity=0.5), TEAL(0.5, phases=Phases(prefill=False))):
        recipe = policy.calibrate(model, tiny_tokenizer(), OTHER)
        found = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=64)
        assert (found.phase, found.stride) == ("decode", 32)
        assert found.kl > 0.01
        assert found.achieved == found.achieved_by_phase["decode"] == pytest.approx(0.5, abs=0.05)
        assert found.achieved_by_phase["prefill"] == 0


def test_the_dense_model_alone(model):
    found = evaluate(model, tiny_tokenizer(), TEXT, context=64)
    assert found.perplexity == found.perplexity_dense
    assert (found.kl, found.agreement, found.achieved, found.overlap) == (0, 1, 0, 0)
    linears = {site.module for site in find_channels(model)} | {"lm_head"}
    weights = sum(model.get_submodule(name).weight.numel() for name in linears)
    assert found.bytes_per_token == found.bytes_per_token_dense == 8 * weights


def test_level_0_is_the_dense_model(model):
    recipe = TEAL(sparsity=0.0).calibrate(model, tiny_tokenizer(), OTHER)
    found = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=64)
    assert found.perplexity == found.perplexity_dense
    assert (found.kl, found.agreement, found.achieved) == (0, 1, 0)


def test_achieved_is_what_a_hook_of_our_own_counts(model, recipe):
    gate = recipe.gates[-1]
    site, down = gate.site, model.get_submodule(gate.site.module)  # what is off enters it as 0
    zeros = seen = 0

    def count(module, args, _):
        nonlocal zeros, seen
        if module is down:  # not the dense twin's
            zeros, seen = zeros + int((args[0] == 0).sum()), seen + args[0].numel()

    alone = replace(recipe, gates=(gate,), model=fingerprint_of(model, [gate]))
    hook = down.register_forward_hook(count)
    found = evaluate(model, tiny_tokenizer(), TEXT, recipe=alone, context=64)
    hook.remove()
    assert found.achieved == pytest.approx(zeros / seen, abs=1e-9)
    assert found.achieved_by_site == {"mlp.down_proj": pytest.approx(zeros / seen, abs=1e-9)}
    saved = found.bytes_per_token_dense - found.bytes_per_token
    assert saved == pytest.approx(zeros / seen * site.units * site.unit_bytes)


def test_bytes_are_those_of_the_dtype_that_runs(recipe):
    """The recipe was calibrated in float64."""
    half = tiny_model("llama").bfloat16()
    found = evaluate(half, tiny_tokenizer(), TEXT, recipe=recipe, context=64)
    saved = found.bytes_per_token_dense - found.bytes_per_token
    channels = sum(site.units * site.unit_bytes for site in find_channels(half))
    assert saved == pytest.approx(found.achieved * channels)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": 2}, "context: 2 tokens are too few"),
        ({"context": 64, "stride": 64}, "stride: 64 is not between 1 and 63"),
        ({"context": 64, "stride": 0}, "stride: 0"),
        ({"phase": "decod"}, "Did you mean decode"),
    ],
)
def test_options_out_of_range_are_refused(model, options, said):
    with pytest.raises(InputError, match=said):
        evaluate(model, tiny_tokenizer(), TEXT, **options)


def test_a_text_without_tokens_is_refused(model):
    with pytest.raises(InputError, match="nothing to predict"):
        evaluate(model, tiny_tokenizer(), "")


def test_no_hooks_stay_and_the_mode_is_what_it_was(model, recipe):
    model.train()
    evaluate(model, tiny_tokenizer(), TEXT[:80], recipe=recipe)
    assert model.training
    model.eval()
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_text_that_was_calibrated_on_is_noticed(model, recipe):
    assert evaluate(model, tiny_tokenizer(), OTHER[:100], recipe=recipe).overlap > 0
    assert evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe).overlap == 0
