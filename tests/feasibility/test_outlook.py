"""Is it worth it: the oracle is exact, losses are those of `evaluate`, and the verdict follows from the numbers."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from sparseact.bench.rates import Spread
from sparseact.bench.shapes import shape_of
from sparseact.cli import USERS_MISTAKE, main
from sparseact.data import builtin_questions
from sparseact.errors import InputError, UnsupportedModelError
from sparseact.evaluation import evaluate
from sparseact.feasibility import check, outlook
from sparseact.feasibility.candidates import at_level, calibrate_all, of_policy, oracle_gates
from sparseact.feasibility.losses import Loss, Ruler
from sparseact.feasibility.outlook import verdict
from sparseact.feasibility.report import as_text
from sparseact.feasibility.speed import Speed, speeds_of
from sparseact.feasibility.training import in_words, tokens_needed
from sparseact.policies import CHESS, LeadingBits, SparseAct
from sparseact.testing import FAMILIES, tiny_model, tiny_tokenizer

TEXT = "".join(row["question"] + "\n" for row in builtin_questions())


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def found(model):
    return check(model, tiny_tokenizer(), TEXT, tokens=256, dtype="f32", progress=False)


def test_the_oracle_keeps_the_neurons_that_add_most(model):
    """By hand: of h times the norms of down's columns, the 24 highest of 48 for each token but the first."""
    seen = {}
    down = model.model.layers[1].mlp.down_proj
    with torch.no_grad(), at_level(model, [oracle_gates(model)[1]], 0.5)(model):
        # After the hook that masks.
        handle = down.register_forward_pre_hook(lambda _, given: seen.update(masked=given[0][0]))
        model(torch.arange(3, 13)[None])
        handle.remove()
    with torch.no_grad():
        handle = down.register_forward_pre_hook(lambda _, given: seen.update(h=given[0][0]))
        model(torch.arange(3, 13)[None])
        handle.remove()
        kept = (seen["h"].abs() * down.weight.norm(dim=0)).topk(24).indices
    expected = torch.zeros_like(seen["h"]).scatter(1, kept, 1.0) * seen["h"]
    torch.testing.assert_close(seen["masked"][1:], expected[1:])
    torch.testing.assert_close(seen["masked"][0], seen["h"][0])


def test_losses_are_those_of_evaluate(model):
    tokenizer = tiny_tokenizer()
    ruler, recipe = Ruler(model, tokenizer, TEXT, tokens=10**6), at_level(model, oracle_gates(model), 0.7)
    theirs, ours = evaluate(model, tokenizer, TEXT, recipe=recipe, context=256), ruler.loss(recipe)
    assert (ruler.tokens, ruler.perplexity) == (theirs.tokens, pytest.approx(theirs.perplexity_dense))
    assert ours.kl == pytest.approx(theirs.kl)
    assert ours.factor == pytest.approx(theirs.perplexity / theirs.perplexity_dense)


def test_a_dense_recipe_loses_nothing_and_more_off_loses_more(model):
    ruler, gates = Ruler(model, tiny_tokenizer(), TEXT, tokens=512), oracle_gates(model)
    assert ruler.loss(at_level(model, gates, 0.0)) == Loss(1.0, 0.0)
    kl = [ruler.loss(at_level(model, gates, off)).kl for off in (0.2, 0.5, 0.8)]
    assert 0 < kl[0] < kl[1] < kl[2]
    calibration = calibrate_all(model, tiny_tokenizer(), TEXT)
    rule = [ruler.loss(of_policy(CHESS(off), calibration)).kl for off in (0.5, 0.8)]
    assert rule[0] > kl[1]  # no rule beats the oracle
    assert rule[1] > kl[2]


@pytest.mark.parametrize("policy", [CHESS(0.5), LeadingBits(0.6), SparseAct(0.4)])
def test_a_recipe_without_fits_has_the_budget_of_the_policys_own_calibration(model, policy):
    tokenizer = tiny_tokenizer()
    ours = of_policy(policy, calibrate_all(model, tokenizer, TEXT))
    theirs = policy.calibrate(model, tokenizer, TEXT)
    levels = {gate.site.module: gate.selector.sparsity for gate in ours.gates}
    assert levels == pytest.approx(theirs.meta["levels"], abs=1e-4)
    for mine, other in zip(ours.gates, theirs.gates, strict=True):
        for name, values in other.tensors().items():
            torch.testing.assert_close(torch.as_tensor(mine.tensors()[name]), torch.as_tensor(values))


def test_tokens_of_training_pass_through_the_measured_points():
    assert tokens_needed(1.084, 1.041) == pytest.approx(369_000, rel=1e-6)
    assert tokens_needed(1.221, 1.066) / tokens_needed(1.221, 1.051) == pytest.approx(1 / 2, rel=1e-6)
    assert tokens_needed(1.02, 1.03) == 0
    assert tokens_needed(2.0, 1.03) > tokens_needed(1.2, 1.03) > tokens_needed(1.2, 1.05) > 0


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (0.0, "none"),
        (268_953.9, "300,000"),
        (999_999.0, "1 million"),
        (1.26e6, "1 million"),
        (2.34e8, "200 million"),
    ],
)
def test_tokens_in_words(tokens, words):
    assert in_words(tokens) == words


def shape(layers):
    return replace(shape_of("smollm2-135m"), layers=layers, windows=(0,) * layers, layer_frequencies=(0,) * layers)


def test_a_speed_is_of_the_bytes_that_the_rule_leaves():
    wanted = [("gate", 0.2), ("guess", 0.2)]
    found = speeds_of(shape(2), wanted, threads=1, rounds=1)
    assert list(found) == wanted
    mlp = 2 * 3 * 576 * 1536 * 34 / 32
    for (rule, _), speed in found.items():
        assert speed.ratio.count == 1
        assert speed.ratio.median > 0.1
        share = {"gate": 2 / 3, "guess": 2 / 3 * 16 / 34 + 1 / 3}[rule]  # half of the codes of gate and up, and down
        assert speed.bytes_dense - speed.bytes == pytest.approx(0.8 * share * mlp, rel=0.1)


def test_a_guess_by_half_the_bits_has_no_speed_at_4_bits():
    assert speeds_of(shape(1), [("guess", 0.5)], dtype="q4", threads=1) == {}


def speed(ratio):
    return Speed(Spread(ratio, ratio, ratio, 1), 1.0, 2.0, Spread(9.0, 9.0, 9.0, 1), disturbed=False)


@pytest.mark.parametrize(
    ("guess", "inputs", "ratios", "said"),
    [
        (
            1.5,
            1.2,
            (0.9, 0.8),
            "not worth it on this machine: no rule is faster than the dense engine (the best is x0.90)",
        ),
        (1.02, 1.2, (1.3, 1.1), "worth it as it is: leading-bits at 50% is x1.30"),
        (1.2, 1.01, (1.3, 1.1), "worth it as it is: sparseact at 40% is x1.10"),
        (1.1, 1.2, (1.3, 1.1), "worth training: leading-bits at 50% is x1.30 as fast, and in the order of 1 million"),
        (9.0, 1.2, (1.3, 1.1), "not worth it: what is faster here costs too much"),
        (1.01, 1.01, (), "unknown: no speed"),
    ],
)
def test_the_verdict_follows_from_the_numbers(guess, inputs, ratios, said):
    tried = [("guess", 0.5), ("inputs", 0.4)]
    speeds = {rule: speed(ratio) for rule, ratio in zip(tried, ratios, strict=False)}
    rules = {rule: Loss(factor, 0.1) for rule, factor in zip(tried, (guess, inputs), strict=True)}
    assert verdict(rules, speeds, {tried[0]: tokens_needed(guess, 1.03)}, 1.03).startswith(said)


def test_the_whole_check_on_a_tiny_model_is_one_screen(found):
    text = as_text(found, model="tiny", dtype="f32", threads=1)
    assert len(found.oracle_layers) == 3
    assert list(found.oracle) == [0.5, 0.7, 0.8]
    assert set(found.rules) == {
        *((rule, off) for rule in ("gate", "guess") for off in (0.5, 0.7, 0.8)),
        ("inputs", 0.4),
    }
    by_neurons = {(rule, off) for rule in ("gate", "guess") for off in (0.5, 0.7, 0.8)}
    assert set(found.speed) == by_neurons | {("inputs", 0.4)}
    assert text.count("ORACLE") == 2
    assert "Verdict: " in text
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 120
    # 3 x 32 x 48 of the MLP in each of 3 layers; 4 x 32 x 32 of attention; a head of 64 x 32 (kv: 2 of 4 heads).
    assert found.mlp_share == pytest.approx(3 * 3 * 32 * 48 / (3 * 3 * 32 * 48 + 3 * 3 * 32 * 32 + 64 * 32))
    json.dumps(found.as_record())


def test_speeds_on_a_busy_machine_say_so(found):
    speeds = {rule: replace(speed, disturbed=rule[1] == 0.7) for rule, speed in found.speed.items()}
    shown = as_text(replace(found, speed=speeds), model="tiny", dtype="f32", threads=1)
    assert "Other programs wanted the processors" in shown
    quiet = {rule: replace(speed, disturbed=False) for rule, speed in found.speed.items()}
    assert "Other programs" not in as_text(replace(found, speed=quiet), model="tiny", dtype="f32", threads=1)


def without_engine():
    """A model whose activation the engine has not, so that nothing is compiled."""
    config = FAMILIES["llama"]()
    config.hidden_act = "mish"
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def test_all_rules_are_calibrated_by_one_pass(monkeypatch):
    passed, forward = {True: 0, False: 0}, LlamaForCausalLM.forward

    def counted(self, input_ids, **kwargs):
        passed[torch.is_grad_enabled()] += input_ids.numel()
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    model, layers, recipes = without_engine(), 3, 3 + 7  # of the oracle, and of three rules
    check(model, tiny_tokenizer(), TEXT, tokens=256, progress=False)
    assert passed[True] <= outlook.CALIBRATED
    most = 256 * (1 + recipes) + 128 * (1 + layers)
    assert 0.8 * most < passed[False] <= most  # the last window may be shorter


def test_a_family_without_the_engine_has_no_speed():
    found = check(without_engine(), tiny_tokenizer(), TEXT, tokens=256, progress=False)
    assert found.speed == {}
    assert "mish" in found.no_speed
    assert found.verdict.startswith("unknown")
    assert "No speed:" in as_text(found, model="tiny", dtype="q8", threads=1)


def test_what_cannot_be_checked_is_one_line(model):
    with pytest.raises(UnsupportedModelError, match=r"^model: gpt2 has no gate"):
        check(tiny_model("gpt2"), tiny_tokenizer(), TEXT)
    with pytest.raises(InputError, match=r"^text: 50 tokens to measure on; at least 100"):
        check(model, tiny_tokenizer(), "a" * 100)
    with pytest.raises(InputError, match=r"^max_perplexity_increase: 0 is not above 0"):
        check(model, tiny_tokenizer(), TEXT, max_perplexity_increase=0.0)


def test_the_command_gives_json(tmp_path, tiny_gguf, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT)
    monkeypatch.setattr(outlook, "LEVELS", (0.5,))
    arguments = ["check", str(tiny_gguf), "--text", str(tmp_path / "a.txt"), "--tokens", "128", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.keys() >= {"oracle", "oracle_layers", "rules", "speed", "training", "verdict", "device"}
    assert math.isfinite(record["oracle"]["0.5"]["factor"])
    assert record["rules"].keys() == record["speed"].keys() == {"gate 0.5", "guess 0.5", "inputs 0.4"}
    assert main([*arguments, "--max-perplexity-increase", "0"]) == USERS_MISTAKE
    assert "--max-perplexity-increase: 0 is not above 0" in capsys.readouterr().err.splitlines()[-1]
