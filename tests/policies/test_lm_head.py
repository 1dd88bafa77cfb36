"""The head of the model as a site: where it is, what its mask does, and that its gate keeps time with the logits."""

from dataclasses import fields

import pytest
import torch
from torch import nn

from sparseact.calibration.fit import observe_scores
from sparseact.calibration.sample import take_sample
from sparseact.data import builtin_questions
from sparseact.errors import UnsupportedModelError
from sparseact.evaluation import evaluate
from sparseact.masked.apply import run_sparse
from sparseact.masked.decoding import pad_left
from sparseact.policies import POLICIES, TEAL, WINA, Gate, Phases, SparseAct
from sparseact.recipes.selectors import Threshold, TopK
from sparseact.sites import find_channels, on_units, skip_logits, weight_bytes
from sparseact.testing import DISTINCT, LAYERS, PAD, VOCABULARY, tiny_model, tiny_tokenizer

FROM_THE_START = Phases(dense_first=0)
TEXT = "\n".join(row["question"] for row in builtin_questions()[:40])


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 64, (2, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def head_of(model):
    return find_channels(model, lm_head=True)[-1]


def hooks_of(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# --- where it is


@pytest.mark.parametrize("family", DISTINCT)
def test_every_family_has_it_after_the_last_block(family):
    model = tiny_model(family)
    head, channels = head_of(model), find_channels(model)
    assert find_channels(model, lm_head=True) == [*channels, head]
    assert model.get_submodule(head.module) is model.get_output_embeddings()
    assert (head.name, head.layer, head.is_head) == (f"{head.module}.{LAYERS}", LAYERS, True)
    assert (head.units, head.unit_bytes) == (16 if family == "opt-post-norm" else 32, VOCABULARY * 4)
    assert not any(site.is_head for site in channels)
    blocks = round(sum(site.units * site.unit_bytes for site in channels))
    assert weight_bytes(model) == blocks + head.units * VOCABULARY * 4


def test_unit_bytes_follow_the_dtype():
    assert head_of(tiny_model("llama").bfloat16()).unit_bytes == VOCABULARY * 2


@pytest.mark.parametrize(("head", "kind"), [(None, "NoneType"), (nn.Identity(), "Identity")])
def test_a_model_whose_head_is_no_linear_is_refused_in_one_line(head, kind):
    model = tiny_model("llama")
    model.lm_head = head
    with pytest.raises(UnsupportedModelError, match=f"LlamaForCausalLM: its head is of type {kind}") as error:
        find_channels(model, lm_head=True)
    assert "\n" not in str(error.value)


# --- what a mask does


@pytest.mark.parametrize("keep", [0, 1, 3])
@pytest.mark.parametrize("family", DISTINCT)
def test_level_0_is_bit_identical_however_many_logits_are_kept(family, keep, ids):
    model = tiny_model(family)
    gates = [Gate(site, TopK(0.0)) for site in find_channels(model, lm_head=True)]
    with torch.no_grad():
        dense = model(ids, logits_to_keep=keep).logits
        with run_sparse(model, gates, Phases()) as density:
            assert torch.equal(model(ids, logits_to_keep=keep).logits, dense)
    assert density.achieved() == 0


@pytest.mark.parametrize("keep", [0, 1, 3])
@pytest.mark.parametrize("family", DISTINCT)
def test_a_threshold_is_what_a_plain_hook_does_and_counts_what_it_drops(family, keep, ids):
    model = tiny_model(family)
    site, dropped = head_of(model), 0

    def by_hand(_, args):
        nonlocal dropped
        on = args[0].abs() > 0.4
        dropped += int((~on).sum())
        return (args[0] * on,)

    with torch.no_grad():
        hook = model.get_submodule(site.module).register_forward_pre_hook(by_hand)
        expected = model(ids, logits_to_keep=keep).logits
        hook.remove()
        with run_sparse(model, [Gate(site, Threshold(0.4))], FROM_THE_START) as density:
            assert torch.equal(model(ids, logits_to_keep=keep).logits, expected)
    tokens = len(ids) * (keep or ids.shape[1])
    assert (density.tokens[site.name, "prefill"], density.off[site.name, "prefill"]) == (tokens, dropped)
    assert 0 < dropped < tokens * site.units
    assert density.bytes_per_token() == pytest.approx(density.dense_bytes - dropped / tokens * VOCABULARY * 4)


def test_the_logits_are_the_product_with_the_columns_that_are_on(ids):
    """With a shift, a column that is off is worth a bias; the embedding is the same tensor and stays dense."""
    model = tiny_model("llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    shift = torch.randn(32, generator=torch.Generator().manual_seed(2))
    weight = model.lm_head.weight.detach().double()
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state
        with run_sparse(model, [Gate(head_of(model), TopK(0.75), shift=shift)], FROM_THE_START):
            logits = model(ids).logits
    for x, y in zip(hidden.flatten(0, 1), logits.flatten(0, 1), strict=True):
        on = (x - shift).abs().topk(8).indices
        assert y.double() == pytest.approx(weight[:, on] @ (x - shift)[on].double() + weight @ shift.double(), abs=1e-5)


# --- which tokens


def test_the_dense_first_token_is_dense_wherever_it_stands(model):
    """Left-padded prompts of 5 and 1 tokens: the last token of the second one is its first."""
    ids, mask = pad_left([torch.arange(3, 8)[None], torch.tensor([[9]])], PAD)
    site = head_of(model)
    with torch.no_grad(), run_sparse(model, [Gate(site, TopK(0.5))], Phases()) as density:
        dense = model.model(ids, attention_mask=mask).last_hidden_state @ model.lm_head.weight.T
        last = model(ids, attention_mask=mask, logits_to_keep=1).logits[:, 0]
        assert (density.tokens[site.name, "prefill"], density.off[site.name, "prefill"]) == (2, 16)
        all_ = model(ids, attention_mask=mask).logits
        assert (density.tokens[site.name, "prefill"], density.off[site.name, "prefill"]) == (2 + 6, 16 + 4 * 16)
    torch.testing.assert_close(last[1], dense[1, -1])
    torch.testing.assert_close(last, all_[:, -1])
    assert not torch.allclose(last[0], dense[0, -1])


def test_logits_that_are_asked_for_by_place(model, ids):
    """The first place is dense."""
    places = torch.tensor([4, 0])
    site = head_of(model)
    with torch.no_grad(), run_sparse(model, [Gate(site, TopK(0.5))], Phases()) as density:
        some = model(ids, logits_to_keep=places).logits
        assert density.off[site.name, "prefill"] == 2 * 16
        torch.testing.assert_close(some, model(ids).logits[:, places])


def test_decoding_counts_every_token(model, ids):
    recipe = TEAL(0.5, lm_head=True).calibrate(model, tiny_tokenizer(), TEXT)
    with recipe(model) as density:
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    for gate in recipe.gates:
        assert density.tokens[gate.site.name, "decode"] == 2 * 5
        assert density.tokens[gate.site.name, "prefill"] == 2 * (1 if gate.site.is_head else 17)


# --- fitting


def test_skip_logits_lets_hooks_see_all_tokens(model, ids):
    seen, hooks = [], hooks_of(model)
    with torch.no_grad():
        expected = model(ids).logits[:, -1:]
        with on_units(model, [head_of(model)], lambda site, x: seen.append(x.shape) or x), skip_logits(model):
            torch.testing.assert_close(model(ids).logits, expected)
    with pytest.raises(RuntimeError, match="mine"), skip_logits(model):
        raise RuntimeError("mine")
    assert seen == [(2, 17, 32, 1)]
    assert hooks_of(model) == hooks


@pytest.mark.parametrize("gradient", [False, True])
def test_a_sample_has_what_enters_the_head_for_all_tokens(gradient, model, ids):
    site = head_of(model)
    sample = take_sample(model, [site], ids, gradient=gradient)
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[:, 8:-1].flatten(0, 1)
    torch.testing.assert_close(sample.x[site], hidden)
    assert not gradient or sample.gradient[site].shape == hidden.shape


def test_scores_of_all_tokens_are_observed(model, ids):
    gates = [Gate(site, Threshold(0.4)) for site in find_channels(model, lm_head=True)]
    scores = observe_scores(model, gates, ids, Phases(), masked=True)
    assert {len(score) for score in scores.values()} == {2 * 16}


# --- policies


WITH_HEAD = [name for name, policy in POLICIES.items() if "lm_head" in {field.name for field in fields(policy)}]


@pytest.mark.parametrize("name", WITH_HEAD)
def test_sparsity_is_a_share_of_blocks_and_head(name, model):
    recipe = POLICIES[name](sparsity=0.5, lm_head=True).calibrate(model, tiny_tokenizer(), TEXT)
    found = evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=64, limit=4, progress=False)
    assert found.achieved == pytest.approx(0.5, abs=0.04)
    assert found.bytes_per_token == pytest.approx((1 - found.achieved) * found.bytes_per_token_dense)
    assert found.achieved_by_site["lm_head"] > 0.1


def test_the_head_stays_dense_unless_asked_for(model):
    recipe = SparseAct(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    assert not any(gate.site.is_head for gate in recipe.gates)


@pytest.mark.parametrize("policy", [TEAL(0.3, greedy=True, lm_head=True), WINA(0.3, rotate=True, lm_head=True)])
def test_what_works_in_blocks_leaves_the_head_to_itself(policy, model, ids):
    """The greedy budget gives it the target; the rotations are none of its business."""
    recipe = policy.calibrate(model, tiny_tokenizer(), TEXT)
    *blocks, head = recipe.gates
    assert head.site.is_head
    assert head.basis is None
    assert isinstance(policy, TEAL) or any(gate.basis is not None for gate in blocks)
    with torch.no_grad(), recipe(model) as density:
        model(ids)
    assert density.share_off(head) == pytest.approx(0.3 if isinstance(policy, TEAL) else 0.43, abs=0.1)
