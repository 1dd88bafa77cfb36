"""Engines side by side: what is measured, what is checked, and what gets no row."""

import gc
import io
import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparseact.bench import runner as runner_module
from sparseact.bench import worker
from sparseact.bench.rates import Check, Spread, bandwidth_share, is_disturbed, ratios
from sparseact.bench.runner import Runner, RunnerError, Spec, Times
from sparseact.bench.session import Work, admit, perplexity, sample
from sparseact.errors import InputError

BIGRAM = '''
"""The logits of the next token are a row of a table: of token t, the token (t + 1) % 5 gets 1, all others 0."""
import numpy as np

class Bigram:
    def __init__(self, options):
        self.options, self.calls = options, []
    def reset(self):
        self.calls.append("reset")
    def read(self, ids):
        self.calls.append(len(ids))
        self.last = ids[-1]
        return np.eye(5, dtype=np.float32)[(self.last + 1) % 5]
    def step(self, token):
        self.read([token])
        self.calls[-1] = "step"
        return np.eye(5, dtype=np.float32)[(token + 1) % 5]
    def greedy(self, tokens):
        found = [(self.last + 1 + n) % 5 for n in range(tokens)]
        self.last = found[-1]
        return found
    def bytes_per_token(self):
        return 25.0 * self.options["threads"]
    def versions(self):
        return {"bigram": "1"}

def load(options):
    if options["model"] == "missing":
        raise FileNotFoundError("no such table:\\n missing")
    if options["model"] == "crash":
        import os, sys
        print("could not allocate", file=sys.stderr)
        os._exit(3)
    print("a library talks")
    return Bigram(options)
'''
LIKELY = math.log(math.e + 4) - 1  # loss of the next token in the order, nats
UNLIKELY = math.log(math.e + 4)


@pytest.fixture
def bigram(tmp_path, monkeypatch) -> Path:
    """An adapter of a model whose numbers can be worked out by hand, in the place of `engine`."""
    path = tmp_path / "bigram.py"
    path.write_text(BIGRAM)
    monkeypatch.setitem(runner_module.ADAPTERS, "engine", str(path))
    return path


def start(model="table", threads=1, **options):
    return Runner(Spec("engine", "q8"), model, threads=threads, context=64, python=sys.executable, **options)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("transformers:bf16", Spec("transformers", "bf16")),
        ("llama.cpp:q8_0", Spec("llama.cpp", "q8_0")),
        ("ik_llama.cpp:file+ub16", Spec("ik_llama.cpp", "file", ub=16)),
        ("ik_llama.cpp:q4_0+rtr+ub8", Spec("ik_llama.cpp", "q4_0", rtr=True, ub=8)),
        ("engine:q8@runs/teal+40", Spec("engine", "q8", recipe="runs/teal+40")),
    ],
)
def test_runners_are_read_and_named(text, spec):
    assert Spec.parse(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lama.cpp:q8_0", "Did you mean llama.cpp?"),
        ("llama.cpp:q8", "unknown type 'q8'. Did you mean q8_0?"),
        ("engine", "unknown type ''"),
        ("llama.cpp:q8_0+rtr", "llama.cpp has no option 'rtr'"),
        ("engine:q8+ub16", "engine has no option 'ub16'"),
        ("llama.cpp:q8_0+ub", "no option 'ub'"),
        ("ik_llama.cpp:q8_0@teal", "ik_llama.cpp runs no recipes"),
    ],
)
def test_a_wrong_runner_is_refused_in_one_line(text, said):
    with pytest.raises(InputError) as error:
        Spec.parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_spread_and_ratios_by_hand():
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)
    ours = {("a", 0): 30.0, ("a", 1): 90.0, ("b", 0): 20.0}
    theirs = {("a", 0): 10.0, ("a", 1): 45.0, ("a", 2): 1.0, ("b", 1): 7.0}
    assert ratios(ours, theirs) == [3.0, 2.0]  # only rounds that have both
    # 100 MB x 30 tokens/s = 3 GB/s of 10; 100 MB x 90 = 9 of 18
    assert bandwidth_share(ours, 1e8, {("a", 0): 10e9, ("a", 1): 18e9}) == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize(
    ("wall", "cpu", "waited", "threads", "disturbed"),
    [
        (1.0, 0.95, 0.0, 1, False),
        (1.0, 0.85, 0.0, 1, True),
        (1.0, 0.85, 0.0, 2, False),  # two threads may wait for one another
        (1.0, 1.9, 0.06, 2, True),
        (1.0, 0.95, 0.04, 1, False),
    ],
)
def test_samples_that_shared_the_cores_are_told(wall, cpu, waited, threads, disturbed):
    assert is_disturbed(Times(wall, cpu, waited), threads) is disturbed


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (Check(10.4, 10.0, 20.9, 20.0), None),
        (Check(10.6, 10.0, 20.0, 20.0), "decode perplexity 10.6 where the reference has 10 (+6.0%)"),
        (Check(9.4, 10.0, 20.0, 20.0), "(-6.0%)"),  # too good is wrong as well
        (Check(10.0, 10.0, 52.85, 8.9), "prefill perplexity 52.85"),
        (Check(math.nan, 10.0, 20.0, 20.0), "decode perplexity nan"),
        (Check(math.inf, 10.0, 20.0, 20.0), "decode perplexity inf"),
    ],
)
def test_an_engine_whose_perplexity_is_off_is_refused(check, said):
    refusal = check.refusal()
    assert refusal is None if said is None else said in refusal


def test_loss_of_a_token_is_that_of_torch():
    import torch

    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 30
    expected = -torch.log_softmax(logits.double(), dim=0)
    for token in (0, 17, int(logits.argmax()), int(logits.argmin())):
        assert worker.loss(logits.numpy(), token) == pytest.approx(float(expected[token]), abs=1e-5)


def test_decode_loss_reads_the_prompt_together_and_the_rest_one_by_one(bigram):
    held = worker.Worker(runpy.run_path(str(bigram))["load"])
    held.load(model="table", threads=1)
    found = held.nll([0, 1, 2, 3, 3, 4], 3, "decode")
    assert held.model.calls == ["reset", 3, "step", "step"]
    assert found["tokens"] == 3
    assert found["nll"] == pytest.approx((2 * LIKELY + UNLIKELY) / 3)


def test_prefill_loss_reads_pieces_cut_in_several_ways(bigram):
    held = worker.Worker(runpy.run_path(str(bigram))["load"])
    held.load(model="table", threads=1)
    ids = [n % 5 for n in range(80)]
    ids[40] = 4  # predicted after one piece of the first cut: ids[39] is 4, so 0 was likely
    found = held.nll(ids, 8, "prefill")
    assert held.model.calls == ["reset", 8, 32, 32, "reset", 16, 32, "reset", 24, 32, "reset", 32, 32]
    assert found["tokens"] == 9
    assert found["nll"] == pytest.approx((8 * LIKELY + UNLIKELY) / 9)


def test_a_failure_is_an_answer(bigram):
    held = worker.Worker(runpy.run_path(str(bigram))["load"])
    answers = io.StringIO()
    worker.serve(held, io.StringIO('{"do": "load", "model": "missing"}\n{"do": "prefill", "ids": [1]}\n'), answers)
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert first == {"error": "FileNotFoundError: no such table: missing"}
    assert "error" in second


def test_a_runner_measures_in_a_process_of_its_own(bigram):
    work = Work(ids=[n % 5 for n in range(12)], prompt=4, tokens=6)
    with start(threads=2) as runner:
        assert runner.versions == {"bigram": "1"}
        assert runner.load_seconds >= 0
        times = runner.prefill([0, 1, 2])
        assert times.wall > 0
        assert times.cpu >= 0
        assert runner.decode(4)[1] == [3, 4, 0, 1]
        assert perplexity(runner, work, "decode") == pytest.approx(math.exp(LIKELY))
        usage = runner.usage()
        assert usage["bytes_per_token"] == 50
        assert 1e6 < usage["peak_memory_bytes"] < 1e9
        row = admit(runner, work, {"decode": math.exp(LIKELY), "prefill": math.exp(UNLIKELY)})
        assert row["decode"] == pytest.approx(row["decode_reference"])
        assert row["refused"].startswith("prefill perplexity")
        assert "decode perplexity" not in row["refused"]
        rates = sample(runner, work, 2)
        assert rates["decode"] > 0
        assert set(rates["disturbed"]) <= {"decode", "prefill"}


def test_a_runner_that_cannot_load_says_why(bigram):
    with pytest.raises(RunnerError, match="no such table: missing"):
        start("missing")
    with pytest.raises(RunnerError, match="the process ended: could not allocate"):
        start("crash")
    with pytest.raises(RunnerError, match="nowhere/python"):
        Runner(Spec("engine", "q8"), "table", threads=1, context=8, python="nowhere/python")


def test_engines_agree_on_a_model(tiny_gguf):
    """The reference and our engine, each in its process, on the same tokens."""
    ids = np.random.default_rng(0).integers(3, 200, 40).tolist()
    work, found = Work(ids, prompt=8, tokens=6), {}
    for name in ("transformers:f32", "engine:f32"):
        with Runner(Spec.parse(name), tiny_gguf, threads=1, context=work.context, python=sys.executable) as runner:
            phases = [perplexity(runner, work, phase) for phase in ("decode", "prefill")]
            runner.prefill(ids[:8])
            found[name] = (phases, runner.decode(6)[1], runner.decode(2)[1], runner.usage()["bytes_per_token"])
    reference, ours = found.values()
    assert ours[0] == pytest.approx(reference[0], rel=1e-4)
    assert ours[1:3] == reference[1:3]
    assert ours[3] == pytest.approx(reference[3], rel=0.35)  # the engine's rows are padded


def test_bandwidth_is_that_of_the_bytes_read(monkeypatch):
    from sparseact.bench import bandwidth

    held = bandwidth.Bandwidth(2, size=2**20)
    assert [len(part) for part in held.parts] == [2**16, 2**16]
    ticks = iter([0.0, 0.5, 1.0, 1.25])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: next(ticks))
    assert held.measure(2) == 2**20 / 0.25  # the best of two


def test_the_reference_of_a_recipe_stays_sparse(tmp_path):
    from sparseact.bench.transformers_adapter import load
    from sparseact.policies import TEAL
    from sparseact.testing import tiny_model, tiny_tokenizer

    model = tiny_model("llama")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    recipe = TEAL(0.5).calibrate(model, tiny_tokenizer(), "the quick brown fox jumps over a lazy dog " * 40)
    recipe.save(tmp_path / "recipe")
    options = {"model": str(tmp_path / "model"), "dtype": "f32", "threads": 1}
    with torch.set_grad_enabled(False):  # and back: the adapter, with a process of its own, leaves it off
        sparse = load(options | {"recipe": str(tmp_path / "recipe")})
        gc.collect()
        found = [sparse.read([5, 6, 7]), sparse.step(8)]
        with recipe(model):
            expected = model(torch.tensor([[5, 6, 7, 8]])).logits[0].numpy()
        assert sparse.bytes_per_token() < load(options).bytes_per_token()
    np.testing.assert_allclose(found, expected[2:], atol=1e-5)
