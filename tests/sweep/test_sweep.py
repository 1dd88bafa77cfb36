"""The sweep against slow references on tiny models, its files, its resumption, and the real SLM."""

import json
import resource
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from sparseact.attribution import attribute_in_one_pass
from sparseact.attribution.methods.corrected_gxo import CorrectedGxO
from sparseact.errors import InputError
from sparseact.masked.decoding import decode_greedily, prefill, stop_tokens
from sparseact.masked.selectors import topk_mask
from sparseact.sites import capture, find_sites, on_units
from sparseact.sweep import Cell, Plan, evaluate_prompt, run_sweep
from sparseact.sweep.folder import SweepFolder
from sparseact.sweep.masks import CellMasks
from sparseact.testing import tiny_model, tiny_tokenizer

PROMPTS = ["What is a cat?", "Name a sea, please.", "Why?"]
PLAN = Plan(
    metrics=("corrected-gxo", "magnitude", "random"),
    units=("mlp", "heads", "both"),
    sparsity=(0.0, 0.5, 0.75),
    max_new_tokens=6,
)


@pytest.fixture(scope="module")
def tiny():
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None  # so that every label has all its tokens
    return model, tiny_tokenizer()


@pytest.fixture(scope="module")
def swept(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    return run_sweep(*tiny, PLAN, PROMPTS, out, model_info={"name": "tiny"}, progress=False), out


def test_one_row_per_metric_units_and_level(swept):
    table, out = swept
    assert len(table) == 27
    assert ",".join(table.columns) == (
        "model,metric,units,sparsity,achieved,agreement,nll,nll_dense,kl,bleu,exact,leak,prompts,tokens"
    )
    assert set(table["prompts"]) == {3}
    assert set(table["tokens"]) == {18}
    assert len(pd.read_parquet(out / "samples.parquet")) == 81


def test_level_0_is_the_dense_model(swept):
    rows = swept[0].query("sparsity == 0")
    assert (rows[["agreement", "exact"]] == 1).all(axis=None)
    assert (rows["bleu"] == 100).all()
    assert (rows["achieved"] == 0).all()
    assert rows["kl"].abs().max() < 1e-6
    assert (rows["nll"] - rows["nll_dense"]).abs().max() < 1e-6


def test_achieved_is_the_share_of_weight_bytes(swept, tiny):
    rows = swept[0].query("metric == 'magnitude' and sparsity == 0.75").set_index("units")["achieved"]
    mlp, heads = find_sites(tiny[0])[:2]
    neurons, attention = 48 * mlp.unit_bytes, 4 * heads.unit_bytes
    assert rows["mlp"] == pytest.approx(0.75)
    assert rows["heads"] == pytest.approx(0.75)
    assert rows["both"] == pytest.approx((36 * mlp.unit_bytes + 3 * heads.unit_bytes) / (neurons + attention))


def test_a_cell_equals_a_plain_masked_run(tiny):
    """Every number of one cell, computed again one token at a time, without batches or caches."""
    model, tokenizer = tiny
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    plan = Plan(metrics=("magnitude", "corrected-gxo"), units=("mlp", "both"), sparsity=(0.5, 0.75), max_new_tokens=5)
    result = evaluate_prompt(model, tokenizer, plan, ids, 0)
    (row,) = [
        row
        for row in result.samples
        if (row["metric"], row["units"], row["sparsity"]) == ("corrected-gxo", "both", 0.75)
    ]

    sites = find_sites(model)
    prefix = prefill(model, ids)
    label = decode_greedily(model, prefix, 5, frozenset())[0]
    found = attribute_in_one_pass(model, sites, prefix, label[None])
    masks = {site: topk_mask(CorrectedGxO().score(found.x[site], found.gradient[site])[0], 0.75) for site in sites}
    start = ids.shape[1] - 1

    def masked(tokens):  # positions before the label's first step stay dense
        def apply(site, x):
            on = torch.ones(x.shape[1], site.units, dtype=torch.bool)
            steps = x.shape[1] - start
            on[start:] = masks[site][:steps]
            return x * on[None, :, :, None]

        with torch.no_grad(), on_units(model, sites, apply):
            return model(tokens, use_cache=False).logits[0, start:]

    dense = model(torch.cat([ids, label[None, :-1]], 1)).logits[0, start:].log_softmax(-1)
    forced = masked(torch.cat([ids, label[None, :-1]], 1)).log_softmax(-1)
    assert row["agreement"] == pytest.approx((forced.argmax(-1) == label).float().mean().item())
    assert row["nll"] == pytest.approx(-forced[range(5), label].mean().item(), abs=1e-4)
    assert row["kl"] == pytest.approx((dense.exp() * (dense - forced)).sum(-1).mean().item(), abs=1e-4)

    text = ids
    for _ in range(5):
        text = torch.cat([text, masked(text)[-1].argmax().view(1, 1)], 1)
    assert row["text"] == tokenizer.decode(text[0, ids.shape[1] :])
    assert row["exact"] == torch.equal(text[0, ids.shape[1] :], label)


def test_leak_attributes_the_runner_up(tiny):
    """With all the loss's weight on the runner-up, GxO's masks push towards it."""
    model, tokenizer = tiny
    plan = Plan(metrics=("gxo", "magnitude"), units=("mlp",), sparsity=(0.5,), max_new_tokens=6)
    ids = tokenizer(PROMPTS[1], return_tensors="pt").input_ids
    rows = {row["metric"]: row for row in evaluate_prompt(model, tokenizer, plan, ids, 0).samples}
    assert rows["gxo"]["leak"] > rows["magnitude"]["leak"]
    assert rows["magnitude"]["leak"] <= 1 - rows["magnitude"]["agreement"]


def test_the_same_command_resumes_to_the_same_file(swept, tiny, tmp_path, monkeypatch):
    calls = []

    def interrupted(*args, **options):
        calls.append(args[4])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate_prompt(*args, **options)

    monkeypatch.setattr("sparseact.sweep.run.evaluate_prompt", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(*tiny, PLAN, PROMPTS, tmp_path, model_info={"name": "tiny"}, progress=False)
    assert pd.read_csv(tmp_path / "sweep.csv")["prompts"].unique() == [1]
    run_sweep(*tiny, PLAN, PROMPTS, tmp_path, model_info={"name": "tiny"}, progress=False)
    assert calls == [0, 1, 1, 2]
    assert (tmp_path / "sweep.csv").read_bytes() == (swept[1] / "sweep.csv").read_bytes()
    run_sweep(*tiny, PLAN, PROMPTS, tmp_path, model_info={"name": "tiny"}, progress=False)
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("plan", "prompts", "name", "said"),
    [
        (Plan(metrics=("snip",), max_new_tokens=6), PROMPTS, "tiny", "metrics"),
        (PLAN, PROMPTS[:2], "tiny", "other prompts"),
        (PLAN, PROMPTS, "huge", "model tiny there, huge here"),
    ],
)
def test_another_run_in_the_folder_is_refused(swept, tiny, plan, prompts, name, said):
    before = (swept[1] / "sweep.csv").read_bytes()
    with pytest.raises(InputError, match=said):
        run_sweep(*tiny, plan, prompts, swept[1], model_info={"name": name}, progress=False)
    assert (swept[1] / "sweep.csv").read_bytes() == before


def test_a_damaged_run_is_refused_in_one_line(swept, tiny, tmp_path):
    for name in ("meta.json", "sweep.csv", "diagnostics.parquet"):
        (tmp_path / name).write_bytes((swept[1] / name).read_bytes())
    (tmp_path / "samples.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match="can't be read") as error:
        run_sweep(*tiny, PLAN, PROMPTS, tmp_path, model_info={"name": "tiny"}, progress=False)
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_the_earlier_results(swept, tiny, tmp_path):
    for file in swept[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    meta = json.loads((tmp_path / "meta.json").read_text())
    table = (tmp_path / "sweep.csv").read_bytes()
    folder = SweepFolder(tmp_path, meta)
    folder.samples *= 2
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(InputError, match="cannot write"):
            folder.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "sweep.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": ("gox",)}, "Did you mean gxo"),
        ({"units": ("neurons",)}, "units: unknown units 'neurons'"),
        ({"sparsity": (1.2,)}, "sparsity: 1.2 is not between 0 and 1"),
        ({"sparsity": ()}, "sparsity: at least one"),
        ({"sparsity": (0.5, 0.5)}, "twice"),
        ({"heads_sparsity": (0.1,)}, "heads_sparsity: 1 levels for the 9"),
        ({"sparsity": (float("nan"),)}, "not between"),
        ({"correction": -1.0}, "correction"),
        ({"correction": float("nan")}, "correction"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"ig_steps": 0}, "ig_steps"),
    ],
)
def test_a_plan_checks_itself(options, said):
    with pytest.raises(InputError, match=said):
        Plan(**options)


def test_no_prompts_and_a_prompt_beyond_the_context_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="prompts"):
        run_sweep(*tiny, PLAN, [], tmp_path, progress=False)
    with pytest.raises(InputError, match="context"):
        run_sweep(*tiny, PLAN, ["a" * 200], tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_a_file_is_refused_before_any_work(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="not a folder"):
        run_sweep(*tiny, PLAN, PROMPTS, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_heads_have_levels_of_their_own(tiny):
    plan = Plan(metrics=("magnitude",), units=("mlp", "heads", "both"), sparsity=(0.5,), heads_sparsity=(0.25,))
    mlp, heads, both = plan.cells()
    assert (mlp.sparsity, heads.sparsity, both.sparsity, both.heads_sparsity) == (0.5, 0.25, 0.5, 0.25)
    neurons, attention = find_sites(tiny[0])[:2]
    assert [cell.keep(neurons) for cell in (mlp, heads, both)] == [24, 48, 24]
    assert [cell.keep(attention) for cell in (mlp, heads, both)] == [4, 3, 3]


def test_bug_compatible_masks_as_the_released_code_does(tiny):
    model, tokenizer = tiny
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    plan = Plan(metrics=("magnitude",), units=("both",), sparsity=(0.7,), max_new_tokens=4, bug_compatible=True)
    (row,) = evaluate_prompt(model, tokenizer, plan, ids, 0).samples
    # 1/3 of int(.7 * 4) heads, 2/3 of int(.7 * 48) neurons
    assert row["achieved"] == pytest.approx((2 / 4) / 3 + 2 * (33 / 48) / 3)

    sites = [site for site in find_sites(model) if site.layer < 2]  # 75% of 3 layers
    ranks = {site: torch.arange(site.units, dtype=torch.int32).expand(1, 4, -1) for site in sites}
    masks = CellMasks(ranks, ["magnitude"], [Cell("magnitude", "both", 0.7, 0.7)], bug_compatible=True)
    with torch.no_grad(), capture(model, sites) as seen, on_units(model, sites, masks.apply):
        model(ids[:, :4])
        dense = dict(seen)
    with torch.no_grad(), on_units(model, sites, masks.apply), capture(model, sites) as seen:
        model(ids[:, :4])
    first = sites[0]
    assert torch.equal(seen[first][0, 0], dense[first][0, 0])  # the first token is dense
    assert (seen[first][0, 1:, 15:] == 0).all()
    assert torch.equal(seen[first][0, 1:, :15], dense[first][0, 1:, :15])


def test_a_real_model_shows_the_papers_finding(smollm2, tmp_path):
    plan = Plan(metrics=("corrected-gxo", "magnitude"), units=("mlp",), sparsity=(0.8,), max_new_tokens=10)
    prompts = ["Why is the sky blue?", "Name three animals that lay eggs.", "What is the capital of France?"]
    table = run_sweep(*smollm2, plan, prompts, tmp_path, progress=False).set_index("metric")
    assert table.loc["corrected-gxo", "agreement"] > 0.85
    assert table.loc["magnitude", "agreement"] < table.loc["corrected-gxo", "agreement"] - 0.1
    # and why it is an oracle: attribute the runner-up, and the model says the runner-up
    assert table.loc["corrected-gxo", "leak"] > 0.5 > table.loc["magnitude", "leak"]
    assert table.loc["corrected-gxo", "nll"] < table.loc["corrected-gxo", "nll_dense"]


def test_a_free_run_may_end_early(tiny):
    """Texts that reach a stop token are cut there, the stop token included."""
    model, tokenizer = tiny
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    free = decode_greedily(model, prefill(model, ids), 6, frozenset())[0]
    stop = int(free[2])
    first = [int(token) for token in free].index(stop)
    cut = decode_greedily(model, prefill(model, ids), 6, frozenset([stop]))[0]
    assert torch.equal(cut, free[: first + 1])
    assert stop_tokens(model) == frozenset()


def test_ctrl_c_on_the_command_line_keeps_what_is_done(tmp_path):
    """A real interrupt of a real process: one line, and a folder that the same command can go on with."""
    command = [sys.executable, "-m", "sparseact", "sweep", "--metrics", "magnitude", "--units", "mlp"]
    command += ["--sparsity", "0.5", "--limit", "50", "--max-new-tokens", "2", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 400  # a process that starts beside busy ones
    while not (tmp_path / "run" / "sweep.csv").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert not out
    assert "kept" in error.strip().splitlines()[-1]
    assert pd.read_csv(tmp_path / "run" / "sweep.csv")["prompts"][0] < 50
