"""Gates at run time, phases, counts and recipes: what holds for every policy, on hand-made gates where possible."""

import json
import random
from dataclasses import replace

import pytest
import torch

from sparseact.errors import InputError
from sparseact.masked.apply import run_sparse
from sparseact.masked.clock import read_clock
from sparseact.masked.decoding import prefill
from sparseact.masked.recipe import fingerprint_of
from sparseact.policies import TEAL, WINA, Gate, LaRoSA, Phases, RSparse, SparseAct, load_recipe
from sparseact.recipes.gate import array_of
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import Threshold, TopK
from sparseact.sites import find_channels, find_sites
from sparseact.testing import DISTINCT, LAYERS, PAD, float64_model, tiny_model, tiny_tokenizer

FROM_THE_START = Phases(dense_first=0)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 64, (2, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def text():
    return "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=800))


def thresholds(model, value: float = 0.4) -> list[Gate]:
    return [Gate(site, Threshold(value)) for site in find_channels(model)]


def top(model, sparsity: float = 0.4) -> list[Gate]:
    return [Gate(site, TopK(sparsity)) for site in find_channels(model)]


def hooks_of(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# --- gates


@pytest.mark.parametrize("family", DISTINCT)
def test_level_0_is_bit_identical_in_every_family(family, ids):
    model = tiny_model(family)
    with torch.no_grad():
        dense = model(ids).logits
        with run_sparse(model, top(model, 0.0), FROM_THE_START) as density:
            assert torch.equal(model(ids).logits, dense)
    assert density.achieved() == 0


@pytest.mark.parametrize("family", DISTINCT)
def test_a_threshold_is_what_a_plain_hook_on_every_linear_does(family, ids):
    """OPT's flattened MLP, an MLP that blocks share (MobiLlama) and Conv1D (GPT-2) among them."""
    model = tiny_model(family)
    gates = thresholds(model)
    linears = {id(linear): linear for gate in gates for linear in [model.get_submodule(gate.site.module)]}
    seen = kept = 0

    def by_hand(_, args):
        nonlocal seen, kept
        on = args[0].abs() > 0.4
        seen, kept = seen + on.numel(), kept + int(on.sum())
        return (args[0] * on,)

    with torch.no_grad():
        hooks = [linear.register_forward_pre_hook(by_hand) for linear in linears.values()]
        expected = model(ids).logits
        for hook in hooks:
            hook.remove()
        with run_sparse(model, gates, FROM_THE_START) as density:
            assert torch.equal(model(ids).logits, expected)
    units = sum(gate.site.units for gate in gates) * ids.numel()
    off = sum(density.share_off(gate) * gate.site.units for gate in gates) * ids.numel()
    assert (units, off) == (seen, pytest.approx(seen - kept))


def test_units_that_are_off_are_really_off(model, ids):
    """Weights of units that are off may be anything."""
    gates = [replace(gate, selector=TopK(0.5)) for gate in top(model) if gate.site.module.endswith("down_proj")]
    sites, seen = [gate.site for gate in gates], []
    changed = tiny_model("llama")
    with torch.no_grad(), run_sparse(model, gates, FROM_THE_START):
        hook = model.get_submodule(sites[0].module).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        expected = model(ids[:1, :1]).logits
        hook.remove()
        off = (seen[0] == 0).flatten()
        assert off.sum() == 24
        changed.model.layers[0].mlp.down_proj.weight[:, off] = 1e3
    with torch.no_grad(), run_sparse(changed, gates, FROM_THE_START):
        assert torch.equal(changed(ids[:1, :1]).logits, expected)


def test_masked_false_watches_and_changes_nothing(model, ids):
    scores = []
    with torch.no_grad():
        dense = model(ids).logits
        with run_sparse(model, top(model), Phases(), masked=False, on_scores=lambda *seen: scores.append(seen)):
            assert torch.equal(model(ids).logits, dense)
    assert len(scores) == 7 * LAYERS
    assert all(score.shape == (2 * 16, gate.site.units) for gate, score in scores)  # the first position is dense


def test_hooks_are_gone_after_the_block_and_after_an_exception(model, ids, text):
    recipe = RSparse(0.5, alpha=0.5).calibrate(model, tiny_tokenizer(), text)
    before = hooks_of(model)
    with torch.no_grad():
        dense = model(ids).logits
        with recipe(model):
            assert hooks_of(model) > before
            assert not torch.equal(model(ids).logits, dense)
        with pytest.raises(RuntimeError, match="mine"), recipe(model):
            model(ids)
            raise RuntimeError("mine")
        with pytest.raises(IndexError), recipe(model):
            model(torch.tensor([[10_000]]))  # fails half-way through a forward pass
        assert hooks_of(model) == before
        assert torch.equal(model(ids).logits, dense)


def test_a_policy_that_fails_to_calibrate_leaves_no_hooks(model, text):
    before = hooks_of(model)
    with pytest.raises(InputError, match="text: 3 tokens are fewer than one window"):
        TEAL(0.4).calibrate(model, tiny_tokenizer(), "abc")
    assert hooks_of(model) == before


# --- phases


def test_golden_clock():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    clock = read_clock({"input_ids": torch.ones(2, 4), "attention_mask": mask}, Phases(dense_first=1))
    assert clock.phase == "prefill"
    assert clock.real.tolist() == mask.bool().tolist()
    assert clock.sparse.tolist() == [[False, False, False, True], [False, True, True, True]]
    clock = read_clock({"input_ids": torch.ones(2, 4)}, Phases(prefill=False))
    assert not clock.sparse.any()


@pytest.mark.parametrize("first", [0, 1, 5, 17])
def test_the_first_positions_stay_dense(first, model, ids):
    with torch.no_grad():
        dense = model(ids).logits
        with run_sparse(model, top(model, 0.5), Phases(dense_first=first)) as density:
            sparse = model(ids).logits
    assert torch.equal(sparse[:, :first], dense[:, :first])
    assert first == 17 or not torch.allclose(sparse[:, first], dense[:, first], atol=1e-3)
    assert density.achieved() == pytest.approx(0.5 * (17 - first) / 17)


def test_a_dense_prefill_is_dense_and_what_is_decoded_is_not(model, ids):
    gates, phases = top(model, 0.5), Phases(prefill=False)
    with torch.no_grad():
        dense = model(ids[:, :16], use_cache=True)
        step = model(ids[:, 16:], past_key_values=dense.past_key_values).logits
        with run_sparse(model, gates, phases) as density:
            prompt = model(ids[:, :16], use_cache=True)
            sparse_step = model(ids[:, 16:], past_key_values=prompt.past_key_values).logits
    assert torch.equal(prompt.logits, dense.logits)
    assert not torch.allclose(sparse_step, step, atol=1e-3)
    assert density.achieved("prefill") == 0
    assert density.achieved("decode") == pytest.approx(0.5)
    assert density.achieved() == pytest.approx(0.5 / 17)
    assert density.bytes_per_token("decode") < density.bytes_per_token("prefill") == density.dense_bytes


def padded(ids, width):
    rows = torch.full((len(ids), width), PAD)
    mask = torch.zeros_like(rows)
    for row, own in enumerate(ids):
        rows[row, width - len(own) :], mask[row, width - len(own) :] = own, 1
    return rows, mask


@pytest.mark.parametrize("family", ["llama", "gemma3", "opt", "gpt2", "gpt-neox"])
def test_a_left_padded_batch_is_each_text_alone(family, ids):
    model = float64_model(tiny_model(family))
    texts = [ids[0], ids[1, :9], ids[1, 3:15]]
    rows, mask = padded(texts, 20)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    gates, phases = thresholds(model), Phases(dense_first=2)
    alone_off = alone = 0
    with torch.no_grad():
        with run_sparse(model, gates, phases) as together:
            logits = model(rows, attention_mask=mask, position_ids=positions).logits
        for row, own in enumerate(texts):
            with run_sparse(model, gates, phases) as density:
                expected = model(own[None]).logits[0]
            torch.testing.assert_close(logits[row, -len(own) :], expected)
            alone_off += sum(density.off.values())
            alone += sum(density.tokens.values())
    assert (sum(together.off.values()), sum(together.tokens.values())) == (alone_off, alone)


@pytest.mark.parametrize("family", ["llama", "mobillama", "gemma3", "mistral", "opt", "gpt2", "gpt-neox"])
def test_generate_with_a_cache_is_a_teacher_forced_replay(family, ids):
    model = float64_model(tiny_model(family))
    gates = thresholds(model)
    with torch.no_grad(), run_sparse(model, gates, Phases()) as density:
        out = model.generate(
            ids[:1, :10],
            max_new_tokens=8,
            min_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        generated = dict(density.off)
    with torch.no_grad(), run_sparse(model, gates, Phases()) as replayed:
        logits = model(out.sequences[:, :-1]).logits[:, 9:].float()  # as generate hands them out
    torch.testing.assert_close(torch.stack(out.logits, dim=1), logits)
    for gate in gates:
        split = sum(generated.get((gate.site.name, phase), 0) for phase in ("prefill", "decode"))
        assert split == replayed.off[gate.site.name, "prefill"]
        assert density.tokens[gate.site.name, "decode"] == 7


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_with_a_dense_prefill_is_the_same_steps_by_hand(cache, ids):
    model = float64_model(tiny_model("gemma3"))
    gates, phases = thresholds(model), Phases(prefill=False)
    rows, mask = padded([ids[0, :10], ids[1, :6]], 10)
    with torch.no_grad(), run_sparse(model, gates, phases):
        out = model.generate(
            rows,
            attention_mask=mask,
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            cache_implementation=cache,
        )
    with torch.no_grad(), run_sparse(model, gates, phases):
        # All of the prompt is dense, its last token too.
        prefix = prefill(model, torch.cat([rows, rows[:, -1:]], 1), torch.cat([mask, mask[:, -1:]], 1))
        for step, expected in enumerate(out.logits[1:], start=1):
            token = out.sequences[:, 9 + step : 10 + step]
            torch.testing.assert_close(model(**prefix.inputs(token)).logits[:, -1].float(), expected)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_static_cache_is_as_good_as_a_dynamic_one(family, ids):
    """transformers then makes masks by query and key before the model runs, from which padding is hard to tell."""
    model = float64_model(tiny_model(family))
    rows, mask = padded([ids[0, :10], ids[1, :6]], 10)
    found = []
    for cache in ("dynamic", "static"):
        with torch.no_grad(), run_sparse(model, thresholds(model), Phases()) as density:
            out = model.generate(
                rows,
                attention_mask=mask,
                max_new_tokens=4,
                min_new_tokens=4,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                cache_implementation=cache,
            )
        found.append((torch.stack(out.logits), dict(density.off), dict(density.tokens)))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


# --- recipes


@pytest.mark.parametrize(
    "policy",
    [
        TEAL(0.4),
        WINA(0.4, rotate=True),
        LaRoSA(0.4),
        RSparse(0.4, alpha=0.7),
        SparseAct(0.4, phases=Phases(dense_first=3)),
    ],
    ids=lambda policy: policy.name,
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_recipe_read_from_disk_is_bit_identical(policy, family, ids, text, tmp_path):
    model = tiny_model(family)
    recipe = policy.calibrate(model, tiny_tokenizer(), text)
    recipe.save(tmp_path)
    again = load_recipe(tmp_path)
    assert (again.policy, again.sparsity, again.phases, again.model) == (policy.name, 0.4, policy.phases, recipe.model)
    assert again.meta == json.loads(json.dumps(recipe.meta))
    for old, new in zip(recipe.gates, again.gates, strict=True):
        assert (old.site, old.selector, old.signal, old.frozen) == (new.site, new.selector, new.signal, new.frozen)
        assert old.tensors().keys() == new.tensors().keys()
        assert all((array_of(held) == new.tensors()[name]).all() for name, held in old.tensors().items())
    found = []
    with torch.no_grad():
        for one in (recipe, again):
            with one(model) as density:
                found.append((model(ids).logits, density.achieved(), density.bytes_per_token()))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_a_recipe_says_what_it_was_made_of(model, text):
    meta = TEAL(0.4).calibrate(model, tiny_tokenizer(), text).meta
    assert meta["calibration"]["tokens"] == 6 * 127  # windows of 128, a BOS token in front of each
    assert len(meta["calibration"]["text_sha256"]) == 64
    assert meta["options"]["sparsity"] == 0.4
    assert {"sparseact", "torch", "transformers"} <= meta["versions"].keys()


def by_hand(model) -> Recipe:
    gates = tuple(replace(gate, scale=torch.ones(gate.site.units)) for gate in thresholds(model))
    return Recipe("by-hand", 0.4, gates, Phases(), fingerprint_of(model, gates))


@pytest.mark.parametrize("other", [tiny_model("llama", seed=1), tiny_model("gpt2"), tiny_model("mistral")])
def test_a_recipe_of_another_model_is_refused(other, model):
    with pytest.raises(InputError, match=r"was calibrated on another model than this .*; calibrate again") as error:
        by_hand(model)(other)
    assert "\n" not in str(error.value)


def test_one_changed_layer_is_another_model(model):
    other = tiny_model("llama")
    with torch.no_grad():
        other.model.layers[2].mlp.down_proj.weight.mul_(1.1)
    with pytest.raises(InputError, match="or on other weights"):
        by_hand(model)(other)


def test_the_same_weights_in_another_dtype_are_the_same_model(model, ids):
    recipe = by_hand(model)
    half = tiny_model("llama").to(torch.bfloat16)
    with torch.no_grad(), recipe(half) as density:
        assert half(ids).logits.dtype == torch.bfloat16
    assert density.achieved() > 0.05


def damage(folder, name):
    if name == "changed tensors":
        data = bytearray((folder / "recipe.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "recipe.safetensors").write_bytes(data)
    elif name == "no tensors":
        (folder / "recipe.safetensors").unlink()
    elif name == "half a file":
        (folder / "recipe.json").write_text((folder / "recipe.json").read_text()[:500])
    elif name == "not ours":
        (folder / "recipe.json").write_text("[]")
    else:
        record = json.loads((folder / "recipe.json").read_text())
        record |= {"newer": {"version": 2}, "no gates": {"gates": [{}]}}[name]
        (folder / "recipe.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("changed tensors", "recipe.safetensors is not the file that recipe.json was written with"),
        ("no tensors", "damaged .*; calibrate again"),
        ("half a file", "no readable recipe.json here"),
        ("not ours", "no readable recipe.json here"),
        ("newer", "version 2; this sparseact reads version 1; update it"),
        ("no gates", "damaged .*; calibrate again"),
    ],
)
def test_a_damaged_or_newer_recipe_is_refused_in_one_line(name, message, model, tmp_path):
    by_hand(model).save(tmp_path)
    damage(tmp_path, name)
    with pytest.raises(InputError, match=message) as error:
        load_recipe(tmp_path)
    assert str(error.value).startswith(f"recipe: {tmp_path}: ")
    assert "\n" not in str(error.value)


def test_a_folder_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no readable recipe\.json here"):
        load_recipe(tmp_path / "missing")


# --- counts


def test_golden_counts(model, ids):
    """Half of one down projection: 24 columns of 32 floats for every token but the first."""
    (site,) = (site for site in find_channels(model) if site.name == "mlp.down_proj.1")
    with torch.no_grad(), run_sparse(model, [Gate(site, TopK(0.5))], Phases()) as density:
        model(ids)
        model(ids[:1, :1])  # one more text, of one token, which is dense
    assert density.tokens[site.name, "prefill"] == 35
    assert density.off[site.name, "prefill"] == 32 * 24
    assert density.share_off(Gate(site, TopK(0.5))) == pytest.approx(0.5 * 32 / 35)
    assert density.achieved() == pytest.approx(0.5 * 32 / 35)
    blocks = sum(s.units * s.unit_bytes for s in find_channels(model))
    assert density.dense_bytes == blocks + 64 * 32 * 4
    assert density.bytes_per_token() == pytest.approx(density.dense_bytes - 24 * 32 * 4 * 32 / 35)
    assert density.bytes_per_token("decode") == density.dense_bytes  # none was decoded


def test_gates_of_neurons_and_heads_count_their_own_bytes(model, ids):
    for units in ("mlp", "heads"):
        sites = [site for site in find_sites(model, units) if site.unit_size == 1]
        if not sites:
            continue
        with torch.no_grad(), run_sparse(model, [Gate(site, TopK(0.5)) for site in sites], FROM_THE_START) as density:
            model(ids)
        saved = LAYERS * 24 * 3 * 32 * 4  # gate, up and down
        assert density.bytes_per_token() == pytest.approx(density.dense_bytes - saved)


def test_a_submodule_run_on_its_own_is_refused_in_one_line():
    model = tiny_model("llama")
    recipe = TEAL(0.4).calibrate(model, tiny_tokenizer(), "the cat sat on the mat and went away " * 60)
    with pytest.raises(InputError, match="call the model itself"), recipe(model):
        model.model(torch.arange(3, 9)[None])
