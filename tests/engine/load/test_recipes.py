"""Recipes in the engine: the same tokens' logits as with hooks on the model, and the same counts of what was read."""

import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sparseact.engine.engine import Engine
from sparseact.engine.forward import prompt_choice as prompt
from sparseact.engine.load.gates import RUNS
from sparseact.errors import InputError
from sparseact.policies import (
    CATS,
    CETT,
    CHESS,
    SCAP,
    TEAL,
    WINA,
    BlockRouter,
    Countdown,
    DejaVu,
    FirstLook,
    Griffin,
    LaRoSA,
    LeadingBits,
    NOfM,
    Phases,
    RSparse,
    SparseAct,
    Static,
    StatisticalTopK,
    TopKNeurons,
    TopP,
)
from sparseact.recipes import selectors as select
from sparseact.testing import FAMILIES, tiny_model, tiny_tokenizer

IDS = np.random.default_rng(0).integers(0, 64, 12).tolist()
TEXT = "".join(random.Random(0).choices("abcdefghijklmnop ABCDEFG", k=2000))
POLICIES = {
    "sparseact": SparseAct(0.5, lm_head=True),
    "teal": TEAL(0.5, lm_head=True),
    "scap": SCAP(0.5),
    "r-sparse": RSparse(0.5, alpha=1),
    "cats": CATS(0.5),
    "chess": CHESS(0.5),
    "cett": CETT(0.5),
    "wina": WINA(0.5, lm_head=True),
    "statistical-top-k": StatisticalTopK(0.5),
    "top-p": TopP(0.5),
    "n-of-m": NOfM(0.5),
    "top-k": TopKNeurons(0.5),
    "countdown": Countdown(0.5),
    "deja-vu": DejaVu(0.6),
    "static": Static(0.5),
    "block-router": BlockRouter(0.5, block=16),
}


def calibrated(policy, family="llama", *, streamed=False):
    """A recipe whose columns are gathered; streamed, as short columns of a tiny model are where the level is known."""
    model = tiny_model(family)
    recipe = policy.calibrate(model, tiny_tokenizer(), TEXT)
    return model, recipe if streamed else replace(recipe, meta=recipe.meta | {"levels": {}})


def off_the_edge(recipe):
    """Fitted numbers a little changed: they are those of inputs that come again, about which rounding would decide."""

    def moved(selector):
        match selector:
            case select.StatisticalTopK(multiplier):
                return select.StatisticalTopK(multiplier + 1e-4)
            case select.TopP(mass):
                return select.TopP(mass + 1e-4)
        return selector

    return replace(recipe, gates=tuple(replace(gate, selector=moved(gate.selector)) for gate in recipe.gates))


def by_hooks(model, recipe, ids):
    """Logits of tokens run one by one, by hooks on the model, and the counts."""
    logits, cache = [], None
    with recipe(model) as density, torch.no_grad():
        for token in ids:
            out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0, -1].numpy())
    return np.stack(logits), density


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("streamed", [False, True], ids=["gathered", "streamed"])
@pytest.mark.parametrize("name", POLICIES)
def test_steps_equal_hooks_on_the_model(name, streamed, threads):
    model, recipe = calibrated(POLICIES[name], streamed=streamed)
    recipe = off_the_edge(recipe)
    expected, density = by_hooks(model, recipe, IDS)
    with Engine.from_model(model, recipe, dtype="f32", threads=threads) as engine:
        found = np.stack([engine.step(token) for token in IDS])
        read = engine.density()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    shares = {gate.site.module: 1 - density.share_off(gate) for gate in recipe.gates}
    names = {"q": "self_attn.q_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "down": "mlp.down_proj"}
    for short, module in names.items():
        share = shares.get(f"model.layers.1.{module}", 1.0)
        assert read[f"1.{short}"] == pytest.approx(share, abs=1e-9), short
    if name in {"cats", "chess", "top-k"}:
        assert read["1.up"] == read["1.down"] < 0.8
    if name in {"countdown", "deja-vu", "static", "block-router"}:
        assert read["1.gate"] == read["1.down"] < 0.8


@pytest.mark.parametrize("name", ["sparseact", "cats", "countdown", "deja-vu", "top-p", "leading-bits", "block-router"])
def test_steps_are_the_same_to_the_bit_whoever_of_the_team_takes_part(name):
    """Load on the machine decides how many threads do a step, so it must not decide a bit."""
    policy = LeadingBits(0.5) if name == "leading-bits" else POLICIES[name]
    model, recipe = calibrated(policy)
    with Engine.from_model(model, recipe, dtype="q8" if name == "leading-bits" else "f32", threads=3) as engine:
        found = []
        for members in ([3] * 12, [1] * 12, [3, 1, 2] * 4, [2, 1, 3] * 4):
            engine.reset()
            found.append([])
            for token, count in zip(IDS, members, strict=True):
                engine._pace.members = count
                found[-1].append(engine.step(token))
                engine._pace = type(engine._pace)(3)
            found[-1].append(engine.density())
    for other in found[1:]:
        np.testing.assert_array_equal(np.stack(other[:-1]), np.stack(found[0][:-1]))
        assert other[-1] == found[0][-1]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_logits_of_a_gated_head(threads):
    """300 logits are five chunks of 64, the last of them not full."""
    model = tiny_model("llama")
    torch.manual_seed(0)
    model.resize_token_embeddings(300)
    recipe = TEAL(0.5, lm_head=True).calibrate(model, tiny_tokenizer(), TEXT)
    recipe = replace(recipe, meta=recipe.meta | {"levels": {}})
    expected, density = by_hooks(model, recipe, IDS)
    with Engine.from_model(model, recipe, dtype="f32", threads=threads) as engine:
        found = np.stack([engine.step(token) for token in IDS])
        share = 1 - density.share_off(recipe.gates[-1])
        assert recipe.gates[-1].site.module == "lm_head"
        assert engine.density()[engine.architecture.head] == pytest.approx(share, abs=1e-9)
        assert engine.greedy(1) == [found[-1].argmax()]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_quicker_to_stream_is_read_whole():
    """96 outputs of 4 bytes are a short column, which is quicker to gather from some 53% sparsity on; a head's are from
    a third on."""
    model, recipe = calibrated(TEAL(0.5, lm_head=True), streamed=True)
    half = {gate.site.module: 0.5 for gate in recipe.gates} | {"lm_head": 0.3}
    few = half | {gate.site.module: 0.9 for gate in recipe.gates if gate.site.module.endswith("gate_proj")}
    sizes = {}
    for name, levels in (("half", half), ("few", few), ("head", half | {"lm_head": 0.4})):
        with Engine.from_model(model, replace(recipe, meta={"levels": levels}), dtype="f32", threads=2) as engine:
            for token in IDS:
                engine.step(token)
            sizes[name] = engine.bytes_per_token()
            density = engine.density()
            assert set(engine.gated_bytes()) == set(density)
            assert 0.2 < density["0.q"] < 0.8
    with Engine.from_model(model, dtype="f32", threads=1) as engine:
        engine.step(0)
        assert max(sizes["few"], sizes["head"]) < sizes["half"] == engine.bytes_per_token()


@pytest.mark.parametrize("family", ["mistral", "qwen3", "phi", "phi3", "gemma2", "gemma3", "gpt2", "opt"])
@pytest.mark.parametrize("policy", [SparseAct(0.4), CATS(0.4), TopKNeurons(0.4), DejaVu(0.5), BlockRouter(0.5)])
def test_every_family_runs_them(family, policy):
    model, recipe = calibrated(policy, family)
    expected, _ = by_hooks(model, recipe, IDS)
    with Engine.from_model(model, recipe, dtype="f32", threads=2) as engine:
        np.testing.assert_allclose(np.stack([engine.step(token) for token in IDS]), expected, atol=2e-4)


@pytest.mark.parametrize("phases", [Phases(), Phases(prefill=False), Phases(dense_first=3), Phases(dense_first=20)])
@pytest.mark.parametrize(
    "policy",
    [TEAL(0.5, lm_head=True), CATS(0.5), Countdown(0.5), NOfM(0.5), DejaVu(0.5), BlockRouter(0.5), Griffin(0.5)],
    ids=["teal", "cats", "countdown", "n-of-m", "deja-vu", "block-router", "griffin"],
)
def test_a_prompt_at_once_equals_hooks_on_the_model(policy, phases):
    model, recipe = calibrated(replace(policy, phases=phases))
    with recipe(model), torch.no_grad():
        out = model(torch.tensor([IDS[:8]]), use_cache=True)
        prompt = out.logits[0, -1].numpy()
        after = model(torch.tensor([[IDS[8]]]), past_key_values=out.past_key_values).logits[0, -1].numpy()
    with Engine.from_model(model, recipe, dtype="f32", threads=1) as engine:
        np.testing.assert_allclose(engine.prefill(IDS[:8]), prompt, atol=1e-4)
        np.testing.assert_allclose(engine.step(IDS[8]), after, atol=1e-4)


@pytest.mark.parametrize("policy", [SparseAct(0.0), TEAL(0.0, lm_head=True)], ids=["sparseact", "teal"])
def test_level_0_is_dense_bit_by_bit(policy):
    model, recipe = calibrated(policy)
    with Engine.from_model(model, recipe, threads=1) as engine, Engine.from_model(model, threads=1) as dense:
        for token in IDS:
            np.testing.assert_array_equal(engine.step(token), dense.step(token))
        assert engine.bytes_per_token() == dense.bytes_per_token()


@pytest.mark.parametrize("dtype", ["bf16", "q8", "q4"])
@pytest.mark.parametrize("policy", [SparseAct(0.3, lm_head=True), CATS(0.3)], ids=["sparseact", "cats"])
def test_rounded_weights_stay_near_the_exact_ones(policy, dtype):
    """By the loss on forced tokens, which the masks at the edge of a threshold move a little."""
    model, recipe = calibrated(policy)
    ids = np.random.default_rng(1).integers(0, 64, 60)
    with (
        Engine.from_model(model, recipe, dtype=dtype, threads=1) as engine,
        Engine.from_model(model, recipe, dtype="f32", threads=1) as exact,
    ):
        losses = []
        for one in (engine, exact):
            logits = torch.tensor(np.stack([one.step(token) for token in ids[:-1]]))
            losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))))
        assert abs(losses[0] - losses[1]) < (0.5 if dtype == "q4" else 0.15)
        found, expected = engine.density(), exact.density()
        assert found == pytest.approx(expected, abs=0.1)
        assert min(found.values()) < 0.75


def test_the_first_positions_are_dense():
    model, recipe = calibrated(TEAL(0.5, phases=Phases(dense_first=4)))
    with (
        Engine.from_model(model, recipe, dtype="f32", threads=1) as engine,
        Engine.from_model(model, dtype="f32", threads=1) as dense,
    ):
        pairs = [(engine.step(token), dense.step(token)) for token in IDS[:6]]
        for found, expected in pairs[:4]:
            np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(pairs[4][0] - pairs[4][1]).max() > 1e-3
        engine.reset()
        np.testing.assert_allclose(engine.step(IDS[0]), pairs[0][1], atol=1e-5)
        assert engine.density()["0.q"] == 1.0


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (LaRoSA(0.5), "larosa .it reads a rotation of the inputs."),
        (RSparse(0.5, alpha=0.6), "r-sparse .it reads low-rank factors for what is off."),
        (FirstLook(0.5), "first-look .it looks at columns of gate and up before it reads their rows, which would .*"),
    ],
)
def test_what_does_not_run_is_refused_in_one_line(policy, reason):
    model, recipe = calibrated(policy)
    with pytest.raises(InputError, match=f"the engine does not run {reason}; it runs {', '.join(RUNS)}$"):
        Engine.from_model(model, recipe)


def test_heads_that_each_token_chooses_are_refused():
    model, recipe = calibrated(Griffin(0.5, heads=1.0))
    by_token = replace(recipe, gates=tuple(replace(gate, frozen=gate.site.kind == "mlp") for gate in recipe.gates))
    with pytest.raises(InputError, match=r"does not run griffin .it switches heads off token by token.; it runs"):
        Engine.from_model(model, by_token)
    with pytest.raises(InputError, match=r"does not run griffin .it leaves none on.; it runs"):
        Engine.from_model(model, calibrated(Griffin(0.9, heads=1.0))[1])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "policy",
    [Griffin(0.4), Griffin(0.4, heads=1.0), Griffin(0.75, heads=1.0)],
    ids=["neurons", "and-half-the-heads", "and-most-heads"],
)
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi", "phi3", "gemma2", "gemma3", "gpt2", "opt"])
def test_what_the_prompt_chose(family, policy, threads):
    """Two prompts in one text and another text after it; each prompt chooses anew, and reads keys of all heads."""
    model, recipe = calibrated(policy, family)
    parts = [IDS[:5], IDS[5:6], IDS[6:7], IDS[7:10], IDS[10:11]]
    expected, cache = [], None
    with recipe(model) as density, torch.no_grad():
        for part in parts:
            out = model(torch.tensor([part]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            expected.append(out.logits[0, -1].numpy())
    shares = {gate.site.name: 1 - density.share_off(gate, "decode") for gate in recipe.gates}
    with Engine.from_model(model, recipe, dtype="f32", threads=threads) as engine:
        for _ in range(2):
            found = [engine.step(part[0]) if len(part) == 1 else engine.prefill(part) for part in parts]
            np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=2e-4)
            read, heads = engine.density(), shares.get("heads.1", 1.0)
            expected_shares = dict.fromkeys(("gate", "up", "down"), shares["mlp.1"])
            expected_shares |= {"q": heads, "k": 1.0, "v": 1.0, "o": heads}
            found_shares = {short: read[name] for short in expected_shares if (name := f"1.{short}") in read}
            assert found_shares == pytest.approx({short: expected_shares[short] for short in found_shares})
            engine.reset()
        alone = engine.step(IDS[0])  # a prompt of one token
        assert engine.density()["0.gate"] == 1
        engine.reset()
        np.testing.assert_array_equal(engine.prefill(IDS[:1]), alone)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8", "q4"])
def test_weights_of_neurons_that_the_prompt_chose_are_copied(dtype):
    model, recipe = calibrated(Griffin(0.4))
    with Engine.from_model(model, recipe, dtype=dtype, threads=1) as engine:
        engine.prefill(IDS)
        weights = engine._model
        rows, copied = weights.weight("2.gate"), weights.weight("2.gate.chosen")
        chosen = [int((rows == row).all(axis=1).argmax()) for row in copied]
        assert len(set(chosen)) == 29  # of 48
        np.testing.assert_array_equal(copied, rows[chosen])
        np.testing.assert_array_equal(weights.weight("2.up.chosen"), weights.weight("2.up")[chosen])
        columns, copied = weights.weight("2.down")[:, chosen], weights.weight("2.down.chosen")
        # Rounded again where the type has blocks: by half of 1/127 of a block's largest.
        np.testing.assert_allclose(copied, columns, atol=0 if dtype in {"f32", "bf16"} else np.abs(columns).max() / 250)


@pytest.mark.parametrize("place", ["copy_rows", "copy_columns"])
def test_an_interrupt_while_neurons_are_copied_leaves_no_mixture(place, monkeypatch):
    """Until a prompt has chosen anew tokens run dense: not with neurons of two prompts, nor with none."""
    model, recipe = calibrated(Griffin(0.4))
    copy = getattr(prompt, place)

    def interrupted(weights, name, neurons):
        if name.startswith("1."):
            raise KeyboardInterrupt
        copy(weights, name, neurons)

    for before in ([], IDS[:5]):
        with (
            Engine.from_model(model, recipe, dtype="f32", threads=1) as engine,
            Engine.from_model(model, dtype="f32", threads=1) as dense,
            Engine.from_model(model, recipe, dtype="f32", threads=1) as whole,
        ):
            for one in (engine, dense, whole) if before else ():
                one.prefill(before)
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(prompt, place, interrupted)
                engine.prefill(IDS[5:8])
            dense.prefill(IDS[5:8])
            whole.prefill(IDS[5:8])
            assert engine.position == dense.position
            assert engine.greedy(3) == dense.greedy(3)
            logits = engine.step(IDS[8])
            np.testing.assert_array_equal(logits, dense.step(IDS[8]))
            assert engine.density()["1.down"] == 1
            assert np.abs(logits - whole.step(IDS[8])).max() > 1e-3
            for one in (engine, whole):
                one.reset()
                one.prefill(IDS[:5])
            np.testing.assert_array_equal(engine.step(IDS[5]), whole.step(IDS[5]))


def test_bytes_of_predictors_and_of_chosen_neurons():
    """In float32 numbers. A layer has 3072 of attention; padded, 10240 of an MLP with gate and up in rows and down in
    columns, and a predictor of 2048. The head has 2048."""
    found = {}
    for policy in (DejaVu(0.6), Griffin(0.5)):
        model, recipe = calibrated(policy)
        with Engine.from_model(model, recipe, dtype="f32", threads=1) as engine:
            engine.prefill(IDS[:4])
            engine.greedy(5)
            found[policy.name] = engine.bytes_per_token() / 4
            kept = engine.density()["1.down"]
            assert engine.gated_bytes().keys() == {f"{i}.{name}" for i in range(3) for name in ("gate", "up", "down")}
        if policy.name == "deja-vu":
            with Engine.from_model(model, recipe, dtype="f32", threads=1) as engine:
                engine.step(IDS[0])  # dense
                assert engine.bytes_per_token() / 4 == 2048 + 3 * (3072 + 10240)
            assert found["deja-vu"] == pytest.approx(2048 + 3 * (3072 + 2048 + kept * 10240))
    assert found["griffin"] == 2048 + 3 * (3072 + 3 * 32 * 32)  # 24 of 48 neurons, padded to 32


def test_bytes_of_chosen_heads():
    """In float32 numbers. In a layer q and o have 64 rows or columns of 32, 16 for each of 4 heads; k and v 16 rows."""
    model, recipe = calibrated(Griffin(0.5, heads=1.0), "gemma3")
    with Engine.from_model(model, recipe, dtype="f32", threads=1) as engine:
        engine.prefill(IDS[:4])
        engine.greedy(5)
        assert engine.bytes_per_token() / 4 == 2048 + 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 32)
        assert {f"1.{name}" for name in ("q", "o", "gate", "up", "down")} < engine.gated_bytes().keys()
        assert "1.k" not in engine.gated_bytes()


@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8", "q4"])
def test_weights_of_heads_that_the_prompt_chose_are_copied(dtype, head_dim):
    """Without loss where heads are whole blocks; else rounded again, 4 bits to 8."""
    config = FAMILIES["qwen3"]()
    config.head_dim = head_dim
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    recipe = Griffin(0.5, heads=1.0).calibrate(model, tiny_tokenizer(), TEXT)
    exact = dtype in {"f32", "bf16"} or head_dim == 64
    with Engine.from_model(model, recipe, dtype=dtype, threads=1) as engine:
        engine.prefill(IDS)
        weights = engine._model
        for layer in range(3):
            chosen = [head_dim * int(head) + j for head in engine._heads[layer, :2] for j in range(head_dim)]
            assert len(set(chosen)) == 2 * head_dim
            np.testing.assert_array_equal(weights.weight(f"{layer}.q.chosen"), weights.weight(f"{layer}.q")[chosen])
            columns, copied = weights.weight(f"{layer}.o")[:, chosen], weights.weight(f"{layer}.o.chosen")
            np.testing.assert_allclose(copied, columns, atol=0 if exact else np.abs(columns).max() / 250)
            sizes = [weights.arena.bytes_of(weights.numbers[f"{layer}.{name}"]) for name in ("o", "o.chosen")]
            assert (sizes[1] == sizes[0] / 2) == (exact or dtype == "q8")


def test_a_recipe_of_another_model_is_refused():
    _, recipe = calibrated(TEAL(0.5))
    with pytest.raises(InputError, match=r"teal at sparsity 0[.]5 was calibrated on another model"):
        Engine.from_model(tiny_model("llama", seed=1), recipe)
    with pytest.raises(InputError, match="calibrate on this model"):
        Engine.from_model(tiny_model("gpt2"), recipe)


def test_a_recipe_is_read_from_its_folder(tmp_path):
    model, recipe = calibrated(TEAL(0.5))
    recipe.save(tmp_path / "teal")
    with (
        Engine.from_model(model, tmp_path / "teal", threads=1) as one,
        Engine.from_model(model, recipe, threads=1) as other,
    ):
        np.testing.assert_array_equal(one.step(5), other.step(5))


def test_an_engine_with_a_recipe_imports_no_torch(tmp_path):
    model, recipe = calibrated(SCAP(0.5))
    model.save_pretrained(tmp_path / "model")
    recipe.save(tmp_path / "recipe")
    code = f"""
import sys
from sparseact import Engine
with Engine.from_model({str(tmp_path / "model")!r}, recipe={str(tmp_path / "recipe")!r}, threads=1) as engine:
    engine.prefill([1, 5, 9])
    engine.greedy(2)
    assert engine.density()["1.q"] < 1
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.smollm2
def test_a_recipe_of_the_loaded_model_runs_on_its_gguf_file(smollm2):
    model, tokenizer = smollm2
    recipe = TEAL(0.4).calibrate(model, tokenizer, "The ocean is deep and the sky is wide. " * 60)
    ids = tokenizer("The capital of France is").input_ids
    with recipe(model), torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].numpy()
    with Engine.from_model("smollm2", recipe, dtype="f32", threads=2) as engine:
        found = engine.prefill(ids)
        # Masks at the edge of a threshold may go either way: nearly equal, not equal.
        assert np.abs(found - expected).mean() < 0.02
        assert found.argmax() == expected.argmax()
        engine.greedy(8)
        assert 0.5 < engine.bytes_per_token() / (4 * 134_515_008) < 0.75
