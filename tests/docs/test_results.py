"""Tables of measured figures are what their results files make, or have no file for a reason that is said."""

import importlib
import json
import re
import runpy
import shlex
import statistics
import sys
from pathlib import Path

import pytest

from sparseact.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/results").glob("*.md")]
PLACE = re.compile(r"<!-- (?!end)(.+?) -->\n(.*?)<!-- end(?: of table)? -->\n?", re.DOTALL)
TABLE = re.compile(r"^(\|.*)\n\|[-:| ]+\|\n((?:\|.*\n?)*)", re.MULTILINE)
FIGURE = re.compile(r"[-+–x~]?\d*\.?\d[\d.,]*\s*(%|x|ms|s|MB|GB|tokens/s)?(\s*[\[(±/,;].*)?$")


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("registry")


def tables(text: str) -> list[str]:
    """First cells of the heads of the tables that hold measured figures: most cells of a column are figures."""
    found = []
    for head, body in TABLE.findall(text):
        rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in body.splitlines()]
        columns = [[row[number] for row in rows if number < len(row)] for number in range(1, head.count("|") - 1)]
        if any(sum(bool(FIGURE.match(cell)) for cell in column) > len(rows) / 2 for column in columns):
            found.append(head.strip("|").split("|")[0].strip())
    return found


def different(text: str, made: dict[str, str]) -> list[str]:
    """Places of a page that do not hold what was made, or are not there."""
    found = dict(PLACE.findall(text))
    return [name for name, body in made.items() if found.get(name) != body]


def test_a_page_that_differs_from_its_file_is_seen():
    table = "| a | b |\n|---|---|\n| c | 1.5 |\n"
    text = f"<!-- one -->\n{table}<!-- end -->\n\n| d | e |\n|---|---|\n| f | text |\n| g | 1 |\n"
    assert different(text, {"one": table}) == []
    assert different(text, {"one": table.replace("1.5", "1.6")}) == ["one"]
    assert different(text, {"two": table}) == ["two"]
    assert tables(text) == ["a"]  # the other holds a figure in one row of two


def test_tables_are_what_their_files_make(registry):
    for page in PAGES:
        made = {}
        for result in registry.RESULTS.values():
            if result.text == page:
                assert not result.tables or result.kept(), f"no file of {page.name}: {result.files}"
                made |= result.places()
        assert different(page.read_text(encoding="utf-8"), made) == [], f"{page.name}: run benchmarks/results.py"


def test_a_table_of_figures_has_a_file_or_a_reason(registry):
    bare = set()
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        bare |= {(name, head) for head in tables(PLACE.sub("", page.read_text(encoding="utf-8")))}
    assert bare == set(registry.UNKEPT)


def test_kept_files_belong_to_a_result(registry):
    kept = {path for result in registry.RESULTS.values() for path in result.kept()}
    there = {path for path in registry.KEPT.rglob("*") if path.suffix in {".jsonl", ".csv"}}
    assert kept == there


def test_every_command_starts_and_knows_its_options(registry, monkeypatch, capsys):
    commands = [command for result in registry.RESULTS.values() for command in (*result.commands, *result.draw)]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    helps = {}
    for command in commands:
        program, name, *words = shlex.split(command)
        if program == "make":
            assert name in targets, command
            continue
        key = (program, name)
        if key not in helps:
            if program == "sparseact":
                assert main([name, "--help"]) == 0, command
            else:
                assert program == "python"
                monkeypatch.setattr(sys, "argv", [name, "--help"])
                with pytest.raises(SystemExit) as ended:
                    runpy.run_path(str(ROOT / name), run_name="__main__")
                assert not ended.value.code, command
            helps[key] = capsys.readouterr().out
        for option in words:
            assert not option.startswith("--") or option in helps[key], f"{command}: {option} is not one of its options"


def test_results_are_listed_and_one_is_remade_by_name(registry, monkeypatch, capsys, tmp_path):
    results = importlib.import_module("results")
    listed = results.listed()
    assert all(f"\n{name}: about " in listed for name in registry.RESULTS)
    assert all(reason in listed for reason in registry.UNKEPT.values())

    page, kept = tmp_path / "page.md", tmp_path / "kept"
    page.write_text("<!-- calibration -->\nold\n<!-- end -->\n")
    for module in (registry, results):
        monkeypatch.setattr(module, "KEPT", kept)
    row = {"policy": "teal", "model": "tiny", "seconds": 3.2, "cpu_seconds": 5.0, "peak_bytes": 4e9}
    write = f"import pathlib, sys; pathlib.Path(sys.argv[1], 'rows.jsonl').write_text({json.dumps(row)!r})"
    command = f"python -c {shlex.quote(write)}".replace("{", "{{").replace("}", "}}") + " {runs}"
    runs = tmp_path / "its runs"
    runs.mkdir()
    result = registry.Result(str(page), 1, (command,), files=("*.jsonl",), tables="calibration")
    results.remake(result, runs, {})
    assert page.read_text().count("| `teal` | 3 | 5 | 4.0 |") == 1
    assert (kept / "rows.jsonl").exists()


def test_a_remake_asks_for_its_text_and_a_failed_command_ends_it(registry, monkeypatch, capsys, tmp_path):
    results = importlib.import_module("results")
    monkeypatch.setattr(sys, "argv", ["results.py", "--only", "policies"])
    with pytest.raises(SystemExit) as ended:
        results.main()
    assert ended.value.code == 2
    assert "policies needs --text" in capsys.readouterr().err
    result = registry.Result(str(tmp_path / "page.md"), 1, ("python -c 'raise SystemExit(3)'",))
    with pytest.raises(SystemExit, match="exit code 3"):
        results.remake(result, tmp_path, {})


def test_every_page_of_results_says_how_sure_its_figures_are():
    for page in (ROOT / "docs/results").glob("*.md"):
        assert "interval" in page.read_text(encoding="utf-8"), (
            f"{page.name}: give an interval, or say that there is none"
        )


def test_figures_of_the_readme_are_those_of_the_files(registry):
    rows = {(row["policy"], row["sparsity"]): row for row in read("policies/smollm2.jsonl")}
    off = [f"{rows[name, 0.4]['ratio'] - 1:.1%}" for name in ("sparseact", "teal", "wina")]
    assert len({(rows[name, 0.4]["tokens"], rows[name, 0.4]["context"]) for name in ("sparseact", "teal", "wina")}) == 1
    agreement = {}
    for line in (ROOT / "docs/results/song2024/smollm2-table.csv").read_text().splitlines():
        cells = line.split(",")
        if cells[2:4] == ["mlp", "0.8"]:
            agreement[cells[1]] = float(cells[5]), float(cells[13])
    kept = [
        f"{share:.2f} ± {1.96 * (share * (1 - share) / tokens) ** 0.5:.2f}".replace("0.", ".")
        for share, tokens in (agreement["corrected-gxo"], agreement["magnitude"])
    ]
    arms = {row["arm"]: row for row in read("sparse-that-pays.jsonl")}
    sparse, dense = arms["trained .33 on"], arms["dense q8"]
    fast = []
    for threads in (1, 2):
        name = f"tokens_per_second_{threads}"
        ratios = sorted(ours / theirs for ours, theirs in zip(sparse[name], dense[name], strict=True))
        fast.append(f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]")
    _, low, high = sparse["factor"]["tinyshakespeare"]
    engine = registry.RESULTS["engine"].places()["smollm2 1"]
    (cells,) = [line.split(" | ") for line in engine.splitlines() if line.startswith("| `engine:file` ")]
    head = next(line.split(" | ") for line in engine.splitlines() if line.startswith("| runner "))
    rate = [float(end) for end in re.findall(r"[\d.]+", cells[head.index("decode (tokens/s)")])]
    ratio = cells[next(number for number, name in enumerate(head) if "ik_llama" in name)]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for sentence in (
        f"by {off[0]}, TEAL's uniform rule by {off[1]}, WINA's score by {off[2]}",
        f"keeps {kept[0]} of the dense tokens and magnitude {kept[1]}",
        f"{fast[0]} (one thread) and {fast[1]} (two) times as fast as our dense engine",
        f"and {100 * (low - 1):.1f} to {100 * (high - 1):.1f}% off",
        "at {:.0f} [{:.0f}, {:.0f}] tokens/s on one thread".format(*rate),
        f"{ratio} times as fast as ik_llama.cpp",
    ):
        assert sentence in text, sentence


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "docs/results" / name).read_text().splitlines()]
