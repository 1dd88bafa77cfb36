"""Families whose blocks are not all alike, or hold more than attention and an MLP: they run on torch, by a layout for
each kind of block, and the engine refuses them."""

import dataclasses
import json
import random
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import sparseact as sa
from sparseact.calibration.neurons import find_neurons
from sparseact.cli import main
from sparseact.engine.engine import Engine
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.generation.masked import masked
from sparseact.masked.apply import run_sparse
from sparseact.masked.cache_check import check_cache
from sparseact.masked.decoding import decode_greedily, prefill
from sparseact.masked.gate import signal_of
from sparseact.models import support_of
from sparseact.models.families import BUILTIN
from sparseact.policies import CATS, TEAL, Griffin, SparseAct, load_recipe
from sparseact.recipes.phases import Phases
from sparseact.sites import capture, dissect, find_channels, find_sites, on_units, weight_bytes
from sparseact.testing import tiny_model, tiny_tokenizer

FAMILIES = {name: family for family in BUILTIN.values() if family.engine_lacks for name in family.tiny}
del FAMILIES["apertus"]  # whose blocks are those of a plain decoder
NEURONS, HEADS = "neurons", "heads"
KINDS = {
    "lfm2": [NEURONS, NEURONS + HEADS, NEURONS],
    "gemma3n": [NEURONS + HEADS] * 4,
    "gemma4": [NEURONS + HEADS] * 4,
    "qwen3.5": [NEURONS, NEURONS + HEADS, NEURONS],
    "falcon-h1": [NEURONS + HEADS] * 3,
    "granite4-h": [NEURONS, NEURONS + HEADS, NEURONS],
    "mamba": [""] * 3,
    "mamba2": [""] * 3,
}
"""What units each block has, beside channels."""
BESIDE = {"gemma3n": "altup", "mamba": "mixer.dt_proj"}
"""Linears in blocks that are left alone."""
cached = pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("mamba")], indirect=True)
"""Those that hand out a cache of keys and values."""
states = pytest.mark.parametrize("name", ["mamba", "mamba2"], indirect=True)
IDS = torch.randint(3, 60, (2, 20), generator=torch.Generator().manual_seed(0))
TEXT = "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=400))


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return tiny_model(name)


@pytest.fixture(scope="module")
def recipes(name, model):
    """Of all linears, and of the neurons where there are some."""
    policies = [TEAL(0.5), CATS(0.5)] if any(NEURONS in kinds for kinds in KINDS[name]) else [TEAL(0.5)]
    return [policy.calibrate(model, tiny_tokenizer(), TEXT) for policy in policies]


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def evaluate(model, recipe, phase="prefill"):
    return sa.evaluate(model, tiny_tokenizer(), TEXT, recipe=recipe, context=24, limit=2, phase=phase, progress=False)


def test_units_are_found_in_every_kind_of_block(name, model):
    expected = [
        f"{'mlp' if kind == NEURONS else kind}.{layer}"
        for layer, kinds in enumerate(KINDS[name])
        for kind in (NEURONS, HEADS)
        if kind in kinds
    ]
    if expected:
        assert [site.name for site in find_sites(model)] == expected
    else:
        for units in ("mlp", "heads", "both"):
            with pytest.raises(UnsupportedModelError, match=r"has no .*; use teal, wina or sparseact"):
                find_sites(model, units)


def test_every_linear_of_a_block_has_channels(name, model):
    """Each but those that are known to be left alone, once, and their bytes are all of the weights."""
    found = {site.module: site for site in find_channels(model)}
    linears = {
        f"{block.path}.{inside}": module
        for block in dissect(model)[0]
        for inside, module in block.module.named_modules()
        if isinstance(module, torch.nn.Linear) and not inside.startswith(BESIDE.get(name, "none"))
    }
    assert found.keys() == linears.keys()
    for module, site in found.items():
        assert site.units == linears[module].in_features
        assert site.units * site.unit_bytes == pytest.approx(4 * linears[module].weight.numel())
    read = sum(4 * linear.weight.numel() for linear in (*linears.values(), model.get_output_embeddings()))
    assert weight_bytes(model) == read


def test_what_a_unit_that_is_off_saves_are_its_weights(name, model):
    """All neurons off is all of the MLP; all heads off all of q, with the gates beside its queries, and of o."""
    for site in find_sites(model) if any(KINDS[name]) else []:
        block = dissect(model)[0][site.layer]
        layout = block.layout
        modules = (
            (*layout.mlp_in, layout.mlp_out) if site.kind == "mlp" else (layout.attention_in[0], layout.attention_out)
        )
        weights = sum(4 * block.linear(module).weight.numel() for module in modules)
        assert site.units * site.unit_bytes == pytest.approx(weights)


def test_the_signals_of_a_neuron_are_what_it_is_made_of(name, model):
    """act(gate) * up is what enters down, whatever the model does between them."""
    parts = find_neurons(model) if any(NEURONS in kinds for kinds in KINDS[name]) else []
    put_out = {}

    def note(module):
        return lambda _, __, output: put_out.update({module: output})

    signals = [signal for part in parts for signal in (part.gate, part.up)]
    hooks = [model.get_submodule(one.module).register_forward_hook(note(one.module)) for one in signals]
    with torch.no_grad(), capture(model, [part.site for part in parts]) if parts else nullcontext() as x:
        model(IDS)
    for hook in hooks:
        hook.remove()
    for part in parts:
        gate, up = (signal_of(signal, put_out[signal.module]) for signal in (part.gate, part.up))
        torch.testing.assert_close(gate * up, x[part.site].flatten(-2), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def all_on(model):
    return TEAL(0.0).calibrate(model, tiny_tokenizer(), TEXT)


def test_with_all_on_the_logits_are_those_of_the_model(model, all_on):
    dense = logits(model)
    with all_on(model):
        assert torch.equal(logits(model), dense)


@cached
def test_token_by_token_the_perplexity_is_that_of_windows_at_once(model, all_on):
    """From cached keys, values and states."""
    found = evaluate(model, all_on, phase="decode")
    assert found.perplexity == pytest.approx(found.perplexity_dense, rel=1e-4)


def test_a_recipe_is_kept_whole(model, recipes, tmp_path):
    dense = logits(model)
    for recipe in recipes:
        recipe.save(tmp_path / recipe.policy)
        again = load_recipe(tmp_path / recipe.policy)
        with recipe(model) as density:
            masked = logits(model)
        assert 0.35 < density.achieved("prefill") < 0.65
        assert {gate.site for gate in recipe.gates} == {gate.site for gate in again.gates}
        with again(model):
            assert torch.equal(logits(model), masked)
        assert (masked - dense).abs().max() > 1e-3
        one, other = evaluate(model, recipe), evaluate(model, again)
        assert one.perplexity == other.perplexity != one.perplexity_dense
        assert torch.equal(logits(model), dense)


def test_every_linear_that_is_off_moves_the_logits(model):
    """None is run past its hook."""
    ids = IDS[:1, :8]
    dense = logits(model, ids)
    for site in find_channels(model, lm_head=True):
        with on_units(model, [site], lambda _, x: torch.zeros_like(x)):
            assert (logits(model, ids) - dense).abs().max() > 1e-4, site.module


def test_the_default_policy_calibrates(model):
    """By gradients through all kinds of blocks."""
    recipe = SparseAct(0.4).calibrate(model, tiny_tokenizer(), TEXT)
    with recipe(model) as density:
        logits(model)
    assert 0.25 < density.achieved("prefill") < 0.55


@cached
def test_a_cached_text_is_the_one_that_is_read_anew(model, recipes):
    """Greedy text under a recipe, two prompts at once, and its logits read together."""
    check_cache(model)
    for recipe in recipes:
        with recipe(model):
            texts = decode_greedily(model, prefill(model, IDS), 8, frozenset(), times=2)
            assert torch.equal(texts[0], texts[1])
            text = torch.stack([texts[0], texts[2]])
            again = logits(model, torch.cat([IDS, text], dim=1))
        assert torch.equal(again[:, IDS.shape[1] - 1 : -1].argmax(-1), text)


@states
def test_what_would_go_on_from_states_alone_is_refused(model, recipes):
    with pytest.raises(UnsupportedModelError, match="hands out states, not a cache of keys and values"):
        evaluate(model, recipes[0], phase="decode")
    with recipes[0](model), pytest.raises(UnsupportedModelError, match="goes on from cached states"):
        model.generate(IDS, max_new_tokens=2)
    decoding = dataclasses.replace(recipes[0], phases=Phases(prefill=False))
    with pytest.raises(UnsupportedModelError, match="for decoding only would leave out nothing"):
        sa.generate(model, tiny_tokenizer(), "Why?", recipe=decoding, max_new_tokens=3)


@states
def test_a_text_is_read_anew_for_each_token(model, recipes):
    with masked(model, recipes[0]) as backend:
        backend.prefill(IDS[0].tolist())
        text = backend.greedy(4)
        assert 0.35 < backend.achieved() < 0.65
    with recipes[0](model):
        again = logits(model, torch.tensor([[*IDS[0].tolist(), *text]]))
    assert again[0, IDS.shape[1] - 1 : -1].argmax(-1).tolist() == text


def test_a_folder_runs_on_torch_and_the_engine_refuses_it(name, model, tmp_path, capsys):
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    torch.testing.assert_close(logits(sa.load(str(tmp_path), device="cpu")[0]), logits(model), rtol=0, atol=0)
    lacks = FAMILIES[name].engine_lacks
    for source in (tmp_path, model):
        with pytest.raises(UnsupportedModelError, match=f"{FAMILIES[name].model_type}.*has no {lacks}") as refusal:
            Engine.from_model(source)
        assert "\n" not in str(refusal.value)
    assert main(["generate", "--model", str(tmp_path), "--engine", "cpu", "--prompt", "a"]) == 2
    assert lacks in capsys.readouterr().err


def test_its_config_says_what_runs(name, model, tmp_path, capsys):
    model.config.save_pretrained(tmp_path)
    found = support_of(str(tmp_path))
    assert found.torch == ""
    assert FAMILIES[name].engine_lacks in found.engine
    assert main(["models", "--check", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["runs"] == {"torch": True, "engine": False, "gguf": False}
    assert {"teal", "wina"} <= {*record["policies"]}
    assert ("cats" in record["policies"]) == any(NEURONS in kinds for kinds in KINDS[name])


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("gemma")], indirect=True)
def test_attribution_in_one_pass_is_refused_where_positions_meet_past_the_cut(model):
    """Of the others they meet in attention alone: tests/reliability/test_assumptions.py."""
    with pytest.raises(InputError, match=r"one pass does not give the gradients|has no MLP neurons") as refusal:
        sa.attribute(model, tiny_tokenizer(), "Why?", max_new_tokens=3)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.part_of], indirect=True)
def test_a_model_that_sees_runs_as_its_language_model(name, model, tmp_path):
    """From names as published, with keys and values of layers that do not read their own, and other parts beside."""
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())
    whole = {"model_type": FAMILIES[name].part_of, "text_config": text, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    tensors = {
        name.replace("model.", "model.language_model.", 1): value
        for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    if name == "qwen3.5":
        unused = ("model.visual.a", "mtp.b")
    else:
        parts = ("vision_tower.a", "audio_tower.b", "embed_vision.c", "embed_audio.d")
        unused = (*(f"model.{part}" for part in parts), "model.language_model.layers.3.self_attn.k_proj.weight")
    tensors |= {name: torch.zeros(3) for name in unused}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    torch.testing.assert_close(logits(sa.load(str(tmp_path), device="cpu")[0]), logits(model), rtol=0, atol=0)
    found = support_of(str(tmp_path))
    assert (found.family, found.torch) == (FAMILIES[name].model_type, "")


def test_that_a_model_is_sparse_by_itself_is_said_from_its_config(tmp_path, capsys):
    """Of a config that leaves the pattern out, as transformers reads it."""
    config = {"model_type": "gemma3n_text", "num_hidden_layers": 35}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["models", "--check", str(tmp_path)]) == 0
    assert "neurons   the model itself leaves off 95% in 10 of 35 layers" in capsys.readouterr().out
    theirs = AutoConfig.for_model("gemma3n_text").activation_sparsity_pattern
    assert list(support_of(str(tmp_path)).own_sparsity) == theirs


def test_neurons_that_gemma_3n_leaves_off_are_free():
    """At a sparsity that is below its own, a threshold on act(gate) changes nothing in its sparse layers."""
    model = tiny_model("gemma3n")
    recipe = CATS(0.4).calibrate(model, tiny_tokenizer(), TEXT)
    assert [gate.selector.value for gate in recipe.gates[:2]] == [0.0, 0.0]
    dense = logits(model)
    with run_sparse(model, recipe.gates[:2], recipe.phases) as density:
        assert torch.equal(logits(model), dense)
    assert density.achieved("prefill") > 0.6


def test_layers_of_gemma_4_that_run_only_the_last_token_are_masked_for_it():
    """Those that make no keys of their own; what is chosen from the whole prompt is refused there."""
    model = tiny_model("gemma4")
    recipe = TEAL(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    with torch.no_grad(), recipe(model):
        whole, last = (model(IDS, logits_to_keep=keep, use_cache=False).logits for keep in (0, 1))
    torch.testing.assert_close(last, whole[:, -1:], rtol=0, atol=1e-4)
    griffin = Griffin(0.5).calibrate(model, tiny_tokenizer(), TEXT)
    with griffin(model), pytest.raises(UnsupportedModelError, match="runs only the tokens of a prompt whose logits"):
        decode_greedily(model, prefill(model, IDS), 1, frozenset())
