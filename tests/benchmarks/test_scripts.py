"""The benchmarks compare like with like: every implementation gives the same scores."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import transformers

from sparseact.calibration.fit import read_text
from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.sample import take_sample
from sparseact.data import builtin_questions
from sparseact.masked.gate import guess
from sparseact.models import load
from sparseact.policies import POLICIES
from sparseact.sites import find_sites

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Import a module of benchmarks/, as running it there does."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture(params=["llama", "phi"])
def tiny(request):
    """(model in float64, prompt, label)."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    if request.param == "llama":
        config = transformers.LlamaConfig(**sizes, num_hidden_layers=3, num_key_value_heads=2)
        model = transformers.LlamaForCausalLM(config)
    else:
        model = transformers.PhiForCausalLM(transformers.PhiConfig(**sizes, num_hidden_layers=3))
    ids, label = torch.randint(61, (1, 7)), torch.randint(61, (1, 5))
    return model.double().eval(), ids, label


@pytest.mark.parametrize("loop", ["published_loop", "cached_loop"])
def test_loops_give_the_scores_of_one_pass(benchmark, tiny, loop):
    model, ids, label = tiny
    sites = find_sites(model)
    ours = benchmark("attribution").one_pass(model, sites, ids, label)
    theirs = getattr(benchmark("loops"), loop)(model, sites, ids, label)
    for site in sites:
        assert theirs[site].shape == (5, site.units)
        assert theirs[site].abs().max() > 1e-6
        torch.testing.assert_close(ours[site], theirs[site].detach(), rtol=1e-9, atol=1e-12)


def test_a_pass_without_the_cut_is_wrong_but_for_the_last_token(benchmark, tiny):
    model, ids, label = tiny
    site = find_sites(model, "mlp")[0]
    right = benchmark("attribution").one_pass(model, [site], ids, label)[site]
    wrong = benchmark("loops").uncut_pass(model, [site], ids, label)[site]
    torch.testing.assert_close(wrong[-1], right[-1], rtol=1e-9, atol=1e-12)
    assert (wrong[:-1] - right[:-1]).abs().max() > 1e-4


def test_differences_are_seen(benchmark, tiny):
    module = benchmark("attribution")
    site = find_sites(tiny[0], "mlp")[0]
    theirs = torch.tensor([[4.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    ours = theirs + torch.tensor([[0.0, 0.0, 5.0, 0.0], [0.5, 0.0, 0.0, 0.0]])
    found = module.compare_scores({site: ours}, {site: theirs})
    assert found["absolute"] == 5
    assert found["token"] == 5 / 4
    assert found["layer"] == pytest.approx((25.25 / 29) ** 0.5)
    assert found["kept"] == 0.5  # one unit of each token is kept; the first token's is another
    assert module.compare_scores({site: theirs}, {site: theirs})["kept"] == 1


@pytest.mark.parametrize(("depth", "count"), [(30, 2), (30, 6), (7, 2), (2, 2)])
def test_layers_of_the_published_loop_have_the_mean_depth(benchmark, depth, count):
    layers = benchmark("attribution").mirrored_layers(depth, count, seed=3)
    assert len(set(layers)) == count
    assert sum(layers) / count == (depth - 1) / 2
    assert 0 <= min(layers) <= max(layers) < depth


@pytest.mark.parametrize("extra", [[], ["--full"]])
def test_attribution_benchmark_runs(benchmark, tiny_gguf, monkeypatch, capsys, extra):
    arguments = ["--model", str(tiny_gguf), "--prompts", "1", "--rounds", "2", "--max-new-tokens", "3", "--json"]
    monkeypatch.setattr(sys, "argv", ["attribution.py", *arguments, *extra])
    benchmark("attribution").main()
    result = json.loads(capsys.readouterr().out)
    assert result["ratios"]["published / ours"]["min"] <= result["ratios"]["published / ours"]["max"]
    assert len(result["measured"]) == 2
    assert result["difference"]["layer"] < 1e-3
    assert result["rounding"]["one pass f64"]["token"] < 1e-6


@pytest.fixture
def questions_text(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("\n".join(row["question"] for row in builtin_questions()))
    return path


def test_oracle_to_runtime_runs_and_resumes(benchmark, tiny_gguf, questions_text, monkeypatch, capsys, tmp_path):
    out = tmp_path / "rows.jsonl"
    arguments = ["--model", str(tiny_gguf), "--text", str(questions_text), "--limit", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["oracle_to_runtime.py", *arguments])
    benchmark("oracle_to_runtime").main()
    written = out.read_text()
    rows = {(row["method"], row["saved"], row["off"]): row for row in map(json.loads, written.splitlines())}
    assert rows["corrected GxO of the label", None, 0.5]["recall"] == 1
    assert rows["|h|", None, 0.5]["recall_h"] == 1
    assert rows["|h|", None, 0.5]["kl"] < rows["random", None, 0.5]["kl"]
    dense = rows["random", None, 0.5]["bytes_per_token"] + 0.5 * 2 * 96 * 3 * 64 * 4  # 2 layers of 96 neurons
    for (method, saved, _), row in rows.items():  # at equal bytes, bytes are equal
        if saved is not None:
            assert row["bytes_per_token"] == pytest.approx(dense - saved * 2 * 96 * 3 * 64 * 4, rel=1e-3), method
    benchmark("oracle_to_runtime").main()
    assert out.read_text() == written, "rows that are done were done again"
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["oracle_to_runtime.py", "--table", "--out", str(out)])
    benchmark("oracle_to_runtime").main()
    assert capsys.readouterr().out.count("| first look at 3/8 of the inputs |") == 2


def test_the_first_look_of_the_benchmark_is_the_policy(benchmark, tiny_gguf, questions_text):
    model, tokenizer = load(str(tiny_gguf))
    layers = find_neurons(model)
    text = questions_text.read_text()
    windows = read_text(model, tokenizer, text).windows
    sample = take_sample(
        model, [site for layer in layers for site in (layer.site, layer.inputs)], windows, gradient=True
    )
    (rule,) = [
        method.rule
        for method in benchmark("oracle_to_runtime_rules").rules(model, sample, 64, 96)
        if method.name == "first look at 3/8 of the inputs"
    ]
    recipe = POLICIES["first-look"](sparsity=0.5, look=3 / 8).calibrate(model, tokenizer, text)
    modules = dict(model.named_modules())
    for layer, gate in zip(layers, recipe.gates, strict=True):
        x, h = sample.x[layer.inputs][:50], sample.x[layer.site][:50]
        torch.testing.assert_close(rule(layer, x, h), gate.score(guess(gate, modules, x)).detach())


def test_interdependency_measures_the_bounds_for_the_next_and_for_all_later_layers(
    benchmark, tiny_gguf, monkeypatch, capsys, tmp_path
):
    out = tmp_path / "rows.jsonl"
    arguments = ["--model", str(tiny_gguf), "--metrics", "gxo", "--prompts", "1", "--cases", "3", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["interdependency.py", *arguments, "--max-new-tokens", "2"])
    script = benchmark("interdependency")
    script.main()
    assert "later inside lemma" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum(row["row"] == "case" for row in rows) == 6  # neurons and heads
    assert "| cases | 3 | 3 |" in script.places([out])["later layers"]


def test_the_table_of_bounds_by_hand(benchmark):
    script = benchmark("interdependency")
    whole = {"layer": 0, "step": 0, "unit": 0, "gradient_change": 0.0}
    cases = [
        script.Case("mlp", error=1.0, later_error=3.0, lemma=2.0, theorem=10.0, **whole),
        script.Case("mlp", error=4.0, later_error=4.0, lemma=2.0, theorem=10.0, **whole),
    ]
    assert script.bounds(cases).splitlines() == [
        "| | neurons |",
        "|---|---|",
        "| cases | 2 |",
        "| error of the next layer inside the bound of Lemma 3.1 | 50% ± 71% |",
        "| largest error of any later layer inside it | 0% ± 0% |",
        "| error of the next layer inside the bound of Theorem 3.3 | 100% ± 0% |",
        "| largest error of any later layer inside it | 100% ± 0% |",
        "| error of the next layer / lemma's bound, median | 1.25 |",
        "| largest of any later layer / lemma's bound, median | 1.75 |",
        "| error of the next layer / theorem's bound, median | 0.250 |",
        "| largest of any later layer / theorem's bound, median | 0.350 |",
    ]
