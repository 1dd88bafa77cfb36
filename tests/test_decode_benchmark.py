"""benchmarks/decode.py: from a text to rows, from rows to what is reported."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SETTINGS = {"model": "m", "text_sha256": "0", "prompt": 100, "tokens": 8, "context": 300}


@pytest.fixture
def benchmark(monkeypatch):
    """Import a module of benchmarks/, as running it there does."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def run(name):
    environment = {"cpu": "C", "cores": 2, "platform": "P", "python": "3", "versions": {"sparseact": "1"}}
    return {"kind": "run", "run": name, **SETTINGS, "environment": environment}


def check(runner, *, run="a", decode=10.0, refused=None, size=1e8, threads=1):
    return {
        "kind": "check",
        "run": run,
        "threads": threads,
        **SETTINGS,
        "runner": runner,
        "dense_perplexity": 10.0,
        "decode": decode,
        "decode_reference": decode,
        "prefill": 20.2,
        "prefill_reference": 20.0,
        "load_seconds": 0.5,
        "first_seconds": 1.25,
        "peak_memory_bytes": 2e8,
        "bytes_per_token": size,
        "versions": {"lib": "2"},
        "refused": refused,
    }


def sample(runner, number, decode, *, run="a", prefill=500.0, disturbed=(), threads=1):
    of = {"run": run, "threads": threads, **SETTINGS, "runner": runner, "round": number}
    return {"kind": "sample", **of, "decode": decode, "prefill": prefill, "disturbed": list(disturbed)}


def bandwidth(number, rate, run="a"):
    return {"kind": "bandwidth", "run": run, "threads": 1, **SETTINGS, "round": number, "bytes_per_second": rate}


ROWS = [
    run("a"),
    check("engine:q8"),
    check("ik_llama.cpp:q8_0+rtr", decode=10.05),
    check("ik_llama.cpp:q4_0+rtr", decode=13.0, size=5e7),
    sample("engine:q8", 0, 120.0),
    sample("ik_llama.cpp:q8_0+rtr", 0, 80.0),
    sample("ik_llama.cpp:q4_0+rtr", 0, 150.0),
    bandwidth(0, 20e9),
    {"kind": "compile", "run": "a", "threads": 1, **SETTINGS, "first": 31.26, "cached": 1.5},
    sample("engine:q8", 1, 100.0),
    sample("ik_llama.cpp:q8_0+rtr", 1, 50.0),
    sample("ik_llama.cpp:q4_0+rtr", 1, 140.0),
    bandwidth(1, 25e9),
    sample("engine:q8", 2, 500.0, disturbed=["decode"]),
    sample("ik_llama.cpp:q8_0+rtr", 2, 60.0),
    sample("ik_llama.cpp:q4_0+rtr", 2, 145.0),
]


def test_table_by_hand(benchmark):
    module = benchmark("decode_table")
    (group,) = module.summarise(ROWS)
    assert [result.runner for result in group.results] == [
        "ik_llama.cpp:q4_0+rtr",
        "engine:q8",
        "ik_llama.cpp:q8_0+rtr",
    ]
    assert group.best_peer() == "ik_llama.cpp:q8_0+rtr"  # q4_0 is faster, and 30% worse
    text = module.as_markdown([group], ["llama.cpp:file"])
    (ours,) = (line for line in text.splitlines() if line.startswith("| `engine:q8`"))
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells == [
        "`engine:q8`",
        "10.00",
        "+0.00%, +1.00%",
        "100",
        "110.0 [100.0, 120.0]",
        "–",  # llama.cpp:file was not measured
        "1.75 [1.50, 2.00]",
        "50% [40%, 60%]",
        "500 [500, 500]",
        "200",
        "0.5",
        "1.25",
        "200",
        "2 (1)",
    ]
    assert "x ik_llama.cpp:q8_0+rtr (best peer)" in text
    assert "22.5 [20.0, 25.0] GB/s" in text
    assert "31.3 s when it is compiled, 1.5 s later" in text
    assert "lib 2" in text


def test_disturbed_samples_count_when_asked_for(benchmark):
    (group,) = benchmark("decode_table").summarise(ROWS, disturbed=True)
    (ours,) = (result for result in group.results if result.runner == "engine:q8")
    assert sorted(ours.decode.values()) == [100.0, 120.0, 500.0]
    assert ours.dropped == 0


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([check("engine:q8", refused="decode perplexity 99"), sample("engine:q8", 0, 9.0)], "decode perplexity 99"),
        ([check("engine:q8", run="b"), sample("engine:q8", 0, 9.0)], "not checked in the run that timed it"),
        ([sample("engine:q8", 0, 9.0)], "not checked in the run that timed it"),
        ([check("engine:q8", threads=2), sample("engine:q8", 0, 9.0)], "not checked in the run that timed it"),
        (
            [check("engine:q8"), sample("engine:q8", 0, 9.0, disturbed=["decode", "prefill"])],
            "all of its 1 samples shared the cores",
        ),
    ],
)
def test_no_speed_without_a_checked_perplexity_and_a_quiet_sample(benchmark, rows, reason):
    module = benchmark("decode_table")
    groups = module.summarise([run("a"), run("b"), *rows])
    (group,) = (group for group in groups if group.threads == 1)
    assert not group.results
    assert reason in group.refused["engine:q8"]
    assert f"No row for `engine:q8`: {group.refused['engine:q8']}." in module.as_markdown([group], [])


def test_rounds_of_several_runs_add_up_but_are_not_compared_across(benchmark):
    rows = [
        *[run("a"), run("b")],
        *[check(runner, run=name) for runner in ("engine:q8", "llama.cpp:file") for name in "ab"],
        *[sample("engine:q8", 0, 100.0), sample("llama.cpp:file", 0, 50.0)],
        *[sample("engine:q8", 0, 40.0, run="b"), sample("llama.cpp:file", 0, 10.0, run="b")],
        sample("engine:q8", 1, 1000.0, run="b"),
    ]
    module = benchmark("decode_table")
    (group,) = module.summarise(rows)
    assert "| 100.0 [40.0, 1000.0] | 3.00 [2.00, 4.00] |" in module.as_markdown([group], ["llama.cpp:file"])


def test_pictures_are_drawn(benchmark, tmp_path):
    groups = benchmark("decode_table").summarise([*ROWS, check("engine:q8", threads=2)])
    benchmark("decode_plots").write_plots(groups, tmp_path)
    for name in ("frontier.png", "roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_bytes_of_a_file_are_those_of_a_token(benchmark, tiny_gguf):
    # The head is tied: 260 x 64 of the embedding, two blocks of 64 x (64 + 32 + 32 + 64) + 3 x 64 x 96, in Q8_0
    # (34 bytes for 32 weights), and five norms of 64 in float32.
    weights = 260 * 64 + 2 * (64 * 192 + 3 * 64 * 96)
    assert benchmark("decode").gguf_bytes(tiny_gguf) == weights * 34 // 32 + 5 * 64 * 4


@pytest.fixture
def command(benchmark, tiny_gguf, tmp_path, monkeypatch):
    """Run the script with small numbers; gives the rows that it has written so far."""
    module = benchmark("decode")
    monkeypatch.setattr(module, "Bandwidth", partial(module.Bandwidth, size=2**20))
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 8)
    files = ["--out", str(tmp_path / "rows.jsonl"), "--gguf-folder", str(tmp_path), "--peers-python", "no-python"]
    sizes = ["--threads", "1", "--prompt", "16", "--tokens", "3", "--context", "40"]

    def call(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["decode.py", "--model", str(tiny_gguf), "--text", str(text), *files, *sizes, *arguments]
        )
        module.main()
        return [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]

    return call


def test_benchmark_runs_resumes_and_prints(command, capsys):
    first = command("--runners", "transformers:f32", "llama.cpp:q8_0", "--rounds", "1")
    assert [row["kind"] for row in first] == ["run", "check", "check", *[row["kind"] for row in first[3:]]]
    checks = {row["runner"]: row for row in first if row["kind"] == "check"}
    assert checks["transformers:f32"]["refused"] is None
    assert checks["transformers:f32"]["decode"] == pytest.approx(checks["transformers:f32"]["dense_perplexity"])
    assert "make bench-peers" in checks["llama.cpp:q8_0"]["refused"]
    assert sorted(row["kind"] for row in first[3:]) == ["bandwidth", "sample"]
    assert "no speed of llama.cpp:q8_0" in capsys.readouterr().err
    second = command("--runners", "transformers:f32", "--rounds", "2")
    assert [row["kind"] for row in second[len(first) :]].count("sample") == 1  # one round was there
    command("--table", "--disturbed")
    printed = capsys.readouterr().out
    assert "| `transformers:f32` |" in printed
    assert "No row for `llama.cpp:q8_0`" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--runners", "engine:q9"], "unknown type 'q9'"), (["--context", "4000"], "--context 4000 is more")],
)
def test_mistakes_are_one_line(command, arguments, said):
    with pytest.raises(SystemExit) as error:
        command(*arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
