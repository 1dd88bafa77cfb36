"""benchmarks/decode.py: from a text to rows, from rows to what is reported."""

import importlib
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from sparseact.bench import session
from sparseact.bench.report import as_rows, as_text
from sparseact.bench.spec import Spec
from sparseact.bench.summary import summarise

FOLDER = Path(__file__).parents[2] / "benchmarks"
SETTINGS = {"model": "m", "text_sha256": "0", "prompt": 100, "tokens": 8, "context": 300}


@pytest.fixture
def benchmark(monkeypatch):
    """Import a module of benchmarks/, as running it there does."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def run(name):
    environment = {"cpu": "C", "cores": 2, "platform": "P", "python": "3", "versions": {"sparseact": "1"}}
    return {"kind": "run", "run": name, **SETTINGS, "environment": environment}


def check(name, *, run="a", decode=10.0, refused=None, size=1e8, threads=1):
    spec = Spec.parse(name)
    return {
        "kind": "check",
        "run": run,
        "threads": threads,
        **SETTINGS,
        "runner": name,
        **asdict(spec),
        "label": spec.dense_name + (" teal 40%" if spec.recipe else ""),
        "dense_perplexity": 10.0,
        "decode": {"perplexity": decode, "reference": decode, "error": 0.0001},
        "prefill": {"perplexity": 20.2, "reference": 20.0, "error": 0.02},
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
    (group,) = summarise(ROWS)
    assert [result.runner for result in group.results] == [
        "ik_llama.cpp:q4_0+rtr",
        "engine:q8",
        "ik_llama.cpp:q8_0+rtr",
    ]
    assert group.best_peer().runner == "ik_llama.cpp:q8_0+rtr"  # q4_0 is faster, and 30% worse
    text = benchmark("decode_table").as_markdown(group, ["llama.cpp:file"])  # which was not measured
    (ours,) = (line for line in text.splitlines() if line.startswith("| `engine:q8`"))
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells == [
        "`engine:q8`",
        "10.00",
        "+0.0%",
        "+0.00%, +1.00% ± 4.0%",
        "100",
        "110.0 [100.0, 120.0]",
        "1.00 [1.00, 1.00]",
        "1.75 [1.50, 2.00]",
        "50% [40%, 60%]",
        "500 [500, 500]",
        "200",
        "0.5",
        "1.25",
        "200",
        "2 (1)",
    ]
    (head,) = (line for line in text.splitlines() if line.startswith("| runner"))
    assert head.count("|") == len(cells) + 1
    assert "x ik_llama.cpp:q8_0+rtr (best peer)" in head
    assert "| +30.0% |" in text
    assert "22.5 [20.0, 25.0] GB/s" in text
    assert "31.3 s when it is compiled, 1.5 s later" in text
    assert "lib 2" in text


def test_what_the_command_says_by_hand():
    recipe = "engine:q8@runs/a"
    sparse = [check(recipe, decode=11.0, size=6e7), sample(recipe, 0, 150.0), sample(recipe, 1, 120.0)]
    (group,) = summarise([*ROWS, *sparse])
    rows = {row["name"]: row for row in as_rows(group)}
    assert [*rows] == ["ik_llama.cpp:q4_0+rtr", recipe, "engine:q8", "ik_llama.cpp:q8_0+rtr"]
    row = rows[recipe]
    assert (row["runner"], row["dtype"], row["recipe"], row["threads"]) == ("engine", "q8", "runs/a", 1)
    assert (row["decode_tokens_per_second"], row["prefill_tokens_per_second"]) == (135, 500)
    assert row["ratio_to_dense"] == pytest.approx((150 / 120 + 120 / 100) / 2)
    assert row["ratio_to"] == {
        "ik_llama.cpp:q4_0+rtr": pytest.approx((150 / 150 + 120 / 140) / 2),
        "ik_llama.cpp:q8_0+rtr": pytest.approx((150 / 80 + 120 / 50) / 2),
    }
    assert row["spread"]["ratio_to_dense"] == [1.2, 1.25]
    assert row["share_of_bandwidth"] == pytest.approx((6e7 * 150 / 20e9 + 6e7 * 120 / 25e9) / 2)
    assert rows["ik_llama.cpp:q8_0+rtr"]["ratio_to_dense"] is None
    lines = [line.split("  ") for line in as_text(group).splitlines() if line.startswith("engine:q8 teal 40%")]
    rates, ratios = ([cell.strip() for cell in line if cell] for line in lines)
    assert rates[1:] == ["11.00 (+10.0%)", "135.0 [120.0, 150.0]", "37%", "500", "60", "200"]
    assert ratios[1] == "1.23 [1.20, 1.25]"


def test_bounds_by_hand(benchmark):
    rows = [
        *ROWS,
        *[check("llama.cpp:q8_0"), sample("llama.cpp:q8_0", 0, 100.0), sample("llama.cpp:q8_0", 1, 100.0)],
        *[check("transformers:f32"), sample("transformers:f32", 0, 10.0), sample("transformers:f32", 1, 10.0)],
        *[check("engine:q8@runs/a", size=5e7), sample("engine:q8@runs/a", 0, 180.0), sample("engine:q8@runs/a", 1, 90)],
    ]
    (group,) = summarise(rows)
    found = {bound.what: bound for bound in benchmark("bounds").bounds(group)}
    same = found["dense engine:q8 over llama.cpp:q8_0"]
    assert (same.found.median, same.bound, same.verdict) == (pytest.approx(1.1), 1.1, "reached")
    best = [bound for what, bound in found.items() if what.startswith("best")]
    assert "(engine:q8 over llama.cpp:q8_0)" in best[0].what
    assert [bound.verdict for bound in best] == ["reached", "not reached"]  # 1.1 of 1, 1.35 of 1.5
    promised = found["engine:q8 teal 40% over dense, of the 2.00 that its bytes promise"]
    assert promised.found.median == pytest.approx((180 / 120 + 90 / 100) / 2 / 2)
    assert promised.verdict == "not reached"
    assert found["dense engine:q8 over transformers:f32"].verdict == "reached"
    assert found["dense engine:bf16 over llama.cpp:bf16"].verdict == "no such pair"
    assert "| reached |" in benchmark("bounds").as_markdown([same])


def test_exactness_is_told(benchmark, tiny_gguf):
    said = benchmark("bounds").exactness(str(tiny_gguf))
    assert said.endswith("64 of 64 greedy tokens equal: reached")


def test_recipes_that_would_have_one_name_keep_their_folders():
    rows = [row for name in ("a", "b") for row in (check(f"engine:q8@{name}"), sample(f"engine:q8@{name}", 0, 9.0))]
    (group,) = summarise([run("a"), *rows])
    assert sorted(result.label for result in group.results) == ["engine:q8@a", "engine:q8@b"]


def test_disturbed_samples_count_when_asked_for():
    (group,) = summarise(ROWS, disturbed=True)
    (ours,) = (result for result in group.results if result.runner == "engine:q8")
    assert sorted(ours.decode.values()) == [100.0, 120.0, 500.0]
    assert ours.dropped == 0
    assert (group.disturbed, group.samples) == (1, 18)


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
    groups = summarise([run("a"), run("b"), *rows])
    (group,) = (group for group in groups if group.threads == 1)
    assert not group.results
    assert reason in group.refused["engine:q8"]
    text = benchmark("decode_table").as_markdown(group, [])
    assert f"No row for `engine:q8`: {group.refused['engine:q8']}." in text


def test_rounds_of_several_runs_add_up_but_are_not_compared_across(benchmark):
    rows = [
        *[run("a"), run("b")],
        *[check(runner, run=name) for runner in ("engine:q8", "llama.cpp:file") for name in "ab"],
        *[sample("engine:q8", 0, 100.0), sample("llama.cpp:file", 0, 50.0)],
        *[sample("engine:q8", 0, 40.0, run="b"), sample("llama.cpp:file", 0, 10.0, run="b")],
        sample("engine:q8", 1, 1000.0, run="b"),
    ]
    (group,) = summarise(rows)
    text = benchmark("decode_table").as_markdown(group, ["llama.cpp:file"])
    assert "| 100.0 [40.0, 1000.0] | 1.00 [1.00, 1.00] | 3.00 [2.00, 4.00] |" in text


def test_pictures_are_drawn_and_the_page_is_filled(benchmark, tmp_path, monkeypatch):
    recipe = [check("engine:q8@runs/a"), sample("engine:q8@runs/a", 0, 150.0)]
    two = [check("engine:q8", threads=2), sample("engine:q8", 0, 200.0, threads=2)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, *recipe, *two]))
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->\n<!-- end -->\n" for name in ("m 1", "m 2", "bounds", "pictures")))
    files = [str(tmp_path / "rows.jsonl"), "--page", str(page), "--images", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["decode_table.py", *files])
    benchmark("decode_table").main()
    for name in ("engine-frontier.png", "engine-roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert text.count("| `engine:q8` |") == 2
    assert "](./engine-frontier.png)" in text
    assert "`engine:q8 teal 40%`" in text
    assert "| m, 2 thread(s) | dense engine:q8 over llama.cpp:q8_0 | 1.1 | – | no such pair |" in text


@pytest.fixture
def command(benchmark, tiny_gguf, tmp_path, monkeypatch):
    """Run the script with small numbers; gives the rows that it has written so far."""
    module = benchmark("decode")
    monkeypatch.setattr(session, "Bandwidth", partial(session.Bandwidth, size=2**20))
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 9)
    files = ["--out", str(tmp_path / "rows.jsonl"), "--gguf-folder", str(tmp_path), "--peers-python", "no-python"]
    sizes = ["--threads", "1", "--prompt-tokens", "16", "--tokens", "3", "--context", "70"]

    def call(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["decode.py", "--model", str(tiny_gguf), "--text", str(text), *files, *sizes, *arguments]
        )
        module.main()
        return [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]

    return call


def test_benchmark_runs_resumes_and_is_shown(benchmark, command, capsys):
    first = command("--runners", "transformers:f32", "llama.cpp:q8_0", "--rounds", "1")
    assert [row["kind"] for row in first] == ["run", "check", "check", *[row["kind"] for row in first[3:]]]
    checks = {row["runner"]: row for row in first if row["kind"] == "check"}
    assert checks["transformers:f32"]["refused"] is None
    dense = checks["transformers:f32"]["dense_perplexity"]
    assert checks["transformers:f32"]["decode"]["perplexity"] == pytest.approx(dense)
    assert "make bench-peers" in checks["llama.cpp:q8_0"]["refused"]
    assert sorted(row["kind"] for row in first[3:]) == ["bandwidth", "sample"]
    assert "no speed of llama.cpp:q8_0" in capsys.readouterr().err
    second = command("--runners", "transformers:f32", "--rounds", "2")
    assert [row["kind"] for row in second[len(first) :]].count("sample") == 1  # one round was there
    (group,) = summarise(second, disturbed=True)
    text = benchmark("decode_table").as_markdown(group, [])
    assert "| `transformers:f32` |" in text
    assert "No row for `llama.cpp:q8_0`: llama.cpp is not installed" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runners", "engine:q9"], "unknown type 'q9'"),
        (["--context", "4000"], "`context` 4000 is more"),
        (["--recipes", "x"], "recipe: x"),
    ],
)
def test_mistakes_are_one_line(command, arguments, said):
    with pytest.raises(SystemExit) as error:
        command(*arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
