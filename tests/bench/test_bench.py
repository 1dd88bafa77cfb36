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
from sparseact.bench.energy import Meter
from sparseact.bench.peers import Setup, gguf_bytes
from sparseact.bench.rates import Check, Spread, bandwidth_share, is_disturbed, perplexity, ratios
from sparseact.bench.runner import Runner, RunnerError, Times
from sparseact.bench.session import Work, admit, losses, sample
from sparseact.bench.spec import Spec, runners
from sparseact.errors import InputError, MissingExtraError

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
        ("onnxruntime-genai:q8_0", Spec("onnxruntime-genai", "q8_0")),
        ("openvino-genai:file", Spec("openvino-genai", "file")),
        ("engine:q8+screen", Spec("engine", "q8", screen=True)),
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
        ("openvino-genai:q8_0@teal", "openvino-genai runs no recipes"),
        ("openvino-genai:q8_0+ub16", "openvino-genai has no option 'ub16'"),
        ("onnxruntime-genai:int8", "onnxruntime-genai:int8: unknown type 'int8'"),
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
    ("check", "sparse", "said"),
    [
        (Check(10.4, 10.0, 0.0), False, None),
        (Check(10.6, 10.0, 0.0), True, "perplexity 10.6 where the reference has 10 (+6.0%)"),
        (Check(9.4, 10.0, 0.0), True, "(-6.0%)"),  # too good is wrong as well
        (Check(10.6, 10.0, 0.01), True, None),  # 5% and two standard errors
        (Check(10.6, 10.0, 0.01), False, "(+6.0%)"),  # a dense one's difference is the engine's doing
        (Check(10.8, 10.0, 0.01), True, "(+8.0%)"),
        (Check(11.6, 10.0, 0.3), True, "(+16.0%)"),  # however uncertain
        (Check(math.nan, 10.0, math.inf), True, "perplexity nan"),
        (Check(math.inf, 10.0, math.inf), True, "perplexity inf"),
    ],
)
def test_an_engine_whose_perplexity_is_off_is_refused(check, sparse, said):
    refusal = check.refusal(sparse=sparse)
    assert refusal is None if said is None else said in refusal


def test_perplexities_and_the_error_of_their_difference_by_hand():
    check = Check.of([1.0, 3.0, 2.0], [1.0, 2.0, 3.0])  # differences 0, 1, -1: variance 1, of the mean 1 / 3
    assert (check.perplexity, check.reference) == (pytest.approx(math.e**2), pytest.approx(math.e**2))
    assert check.error == pytest.approx(math.sqrt(1 / 3))
    assert perplexity([1e6, 0.0]) == math.inf
    wrong = Check.of([math.nan, 1.0], [1.0, 1.0])
    assert math.isnan(wrong.perplexity)
    assert "nan" in wrong.refusal()


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
    assert held.model.calls == ["reset", 3, 1, 1]
    assert found["nll"] == pytest.approx([LIKELY, UNLIKELY, LIKELY])


def test_prefill_loss_reads_pieces_cut_in_several_ways(bigram):
    held = worker.Worker(runpy.run_path(str(bigram))["load"])
    held.load(model="table", threads=1)
    ids = [n % 5 for n in range(80)]
    ids[32] = 4  # predicted after one piece of the first cut: ids[31] is 1, so 2 was likely
    found = held.nll(ids, 8, "prefill")
    firsts = range(8, 30, 3)
    assert held.model.calls == [call for first in firsts for call in ["reset", first, *[24] * ((79 - first) // 24)]]
    assert len(found["nll"]) == 3 * 8 - sum(first + 48 > 79 for first in firsts)
    assert sorted(found["nll"]) == pytest.approx([*[LIKELY] * (len(found["nll"]) - 1), UNLIKELY])


def test_a_failure_is_an_answer(bigram):
    held = worker.Worker(runpy.run_path(str(bigram))["load"])
    answers = io.StringIO()
    worker.serve(held, io.StringIO('{"do": "load", "model": "missing"}\n{"do": "prefill", "ids": [1]}\n'), answers)
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert first == {"error": "FileNotFoundError: no such table: missing", "input": False}
    assert "error" in second
    assert worker.refusal(MissingExtraError("numba", "engine"))["input"]
    assert worker.refusal(InputError("no such\n recipe")) == {"error": "no such recipe", "input": True}


def test_a_runner_measures_in_a_process_of_its_own(bigram):
    work = Work(ids=[n % 5 for n in range(12)], prompt=4, tokens=6)
    with start(threads=2) as runner:
        assert runner.versions == {"bigram": "1"}
        assert runner.load_seconds >= 0
        times = runner.prefill([0, 1, 2])
        assert times.wall > 0
        assert times.cpu >= 0
        assert runner.decode(4)[1] == [3, 4, 0, 1]
        assert runner.agreement([0, 1, 2, 3, 0], prompt=2) == pytest.approx(2 / 3)
        assert losses(runner, work, "decode") == pytest.approx([LIKELY] * 8)
        usage = runner.usage()
        assert usage["bytes_per_token"] == 50
        assert 1e6 < usage["peak_memory_bytes"] < 1e9
        reference = {"decode": [LIKELY] * 8, "prefill": [UNLIKELY] * len(losses(runner, work, "prefill"))}
        row = admit(runner, work, reference)
        assert row["decode"]["perplexity"] == pytest.approx(row["decode"]["reference"])
        assert row["refused"].startswith("prefill perplexity")
        assert "decode perplexity" not in row["refused"]
        rates = sample(runner, work, 2, Meter(None, ""))
        assert rates["decode"] > 0
        assert 0 <= rates["processor_seconds"] < 1
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
            phases = [perplexity(losses(runner, work, phase)) for phase in ("decode", "prefill")]
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
        found = [sparse.read([5, 6, 7]), sparse.read([8])]
        with recipe(model):
            expected = model(torch.tensor([[5, 6, 7, 8]])).logits[0].numpy()
        assert sparse.bytes_per_token() < load(options).bytes_per_token()
    np.testing.assert_allclose(found, expected[2:], atol=1e-5)


def test_what_is_measured_beside_the_engine(tmp_path):
    (tmp_path / "recipe.json").write_text(
        '{"policy": "teal", "sparsity": 0.375, "meta": {"options": {"sparsity": 0.375, "greedy": true, "alpha": 0.5}}}'
    )
    others = ["transformers", "ik_llama.cpp", "llama.cpp:q4_0", "onnxruntime-genai", "openvino-genai", "mistralrs"]
    specs = runners(["q8", "file", "q8"], [str(tmp_path)], others, screen=True)
    assert [str(spec) for spec in specs] == [
        "engine:q8",
        f"engine:q8@{tmp_path}",
        "engine:file",
        f"engine:file@{tmp_path}",
        "engine:q8+screen",
        "engine:file+screen",
        "transformers:f32",
        "ik_llama.cpp:q8_0+rtr",
        "ik_llama.cpp:file",
        "ik_llama.cpp:file+ub16",
        "llama.cpp:q4_0",
        "onnxruntime-genai:q8_0",
        "openvino-genai:q8_0",
        "openvino-genai:file",
        "mistralrs:q8_0",
        "mistralrs:file",
    ]
    assert specs[1].label() == "engine:q8 teal 37.5% (greedy, alpha=0.5)"
    assert specs[-7].label() == "ik_llama.cpp:file+ub16"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["q9"], [], []), "dtype: unknown type 'q9'"),
        ((["q8"], ["nowhere"], []), "recipe: nowhere: no readable recipe.json"),
        ((["q8"], [], ["lama.cpp"]), "against: unknown engine 'lama.cpp'. Did you mean llama.cpp?"),
        ((["q8"], [], ["llama.cpp:q9"]), "against: llama.cpp:q9: unknown type 'q9'"),
        ((["file"], [], ["onnxruntime-genai"]), "against: onnxruntime-genai: it has none of the types file; name"),
    ],
)
def test_a_wrong_measurement_is_refused_in_one_line(arguments, said):
    with pytest.raises(InputError) as error:
        runners(*arguments)
    assert str(error.value).startswith(said)


def test_bytes_of_a_file_are_those_of_a_token(tiny_gguf):
    # The head is tied: 260 x 64 of the embedding, two blocks of 64 x (64 + 32 + 32 + 64) + 3 x 64 x 96, in Q8_0
    # (34 bytes for 32 weights), and five norms of 64 in float32.
    weights = 260 * 64 + 2 * (64 * 192 + 3 * 64 * 96)
    assert gguf_bytes(tiny_gguf) == weights * 34 // 32 + 5 * 64 * 4


def test_a_file_of_another_type_is_made_once_and_is_that_of_its_model(tiny_gguf, tmp_path, monkeypatch):
    from sparseact.bench import peers

    made = []

    def requantise(python, shipped, target, dtype):
        made.append(dtype)
        target.write_bytes(shipped.read_bytes())

    monkeypatch.setattr(peers, "_requantise", requantise)
    monkeypatch.setattr(Setup, "_installed", {"llama-cpp-python"})
    setup = Setup(str(tiny_gguf), Path(sys.executable), tmp_path)
    assert setup.gguf("file") == tiny_gguf
    assert setup.gguf("q8_0") == setup.gguf("q8_0")
    copy = tmp_path / tiny_gguf.name
    copy.write_bytes(tiny_gguf.read_bytes())
    assert Setup(str(copy), Path(sys.executable), tmp_path).gguf("q8_0") != setup.gguf("q8_0")
    assert made == ["q8_0", "q8_0"]


def test_the_reference_of_4_bits_has_the_engines_weights(tmp_path):
    """GPT-2 beside Llama: its linears are transposed, and q, k and v fused."""
    from sparseact.bench.transformers_adapter import load
    from sparseact.models.formats import dequantise, quantise
    from sparseact.testing import tiny_model, tiny_tokenizer

    for family in ("llama", "gpt2"):
        folder = tmp_path / family
        model = tiny_model(family)
        tiny_tokenizer().save_pretrained(folder)
        model.save_pretrained(folder)
        options = {"model": str(folder), "dtype": "f32", "threads": 1, "rounded": "q4"}
        with torch.set_grad_enabled(False):
            found = dict(load(options).model.named_parameters())
        changed = {name for name, old in model.named_parameters() if not torch.equal(old, found[name])}
        assert changed == {name for name, old in model.named_parameters() if old.ndim == 2 and "wpe" not in name}
        name = next(name for name in changed if "down_proj" in name or "mlp.c_proj" in name)
        old, new = dict(model.named_parameters())[name].detach(), found[name].detach()
        if family == "gpt2":
            old, new = old.T, new.T
        np.testing.assert_allclose(new, dequantise(quantise(old.contiguous().numpy(), "q4m")), atol=1e-6)
