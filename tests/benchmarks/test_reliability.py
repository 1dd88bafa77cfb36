"""What counts the faults: every kind of bad end is seen, the same number is the same input, the page is current."""

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def faults(monkeypatch):
    """Import a module of benchmarks/faults, as running the benchmark does."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return lambda name: importlib.import_module(f"faults.{name}")


def say(text, status):
    sys.stderr.write(text)
    return status


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (lambda: 0, ""),
        (lambda: {"found": 1}, ""),
        (lambda: say("warning\nsparseact: prompt: there is none\n", 2), ""),
        (lambda: say("sparseact: internal error: KeyError\n", 1), "exit code 1: sparseact: internal error: KeyError"),
        (lambda: say("no such file\n", 2), "exit code 2 without its line: no such file"),
        (lambda: say("sparseact: interrupted\n", 130), "exit code 130: sparseact: interrupted"),
        (lambda: say("Traceback (most recent call last):\nsparseact: that\n", 2), "a traceback: sparseact: that"),
        (lambda: {}["x"], "exit code 1: KeyError: 'x'"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "ended by SIGTERM"),
        (lambda: time.sleep(60), "still running after 0 s"),
    ],
)
def test_every_bad_end_is_seen(faults, work, fault, tmp_path):
    ended = faults("child").fork(work, tmp_path, limit=0.4).wait()
    assert ended.fault() == fault
    assert ended.result == ({"found": 1} if ended.result else None)


def test_the_same_number_is_the_same_input(faults, tmp_path):
    bad, originals = faults("bad_inputs"), tmp_path / "originals"
    for name in ("model/config.json", "model/model.safetensors", "text.csv", "text.parquet"):
        (originals / name).parent.mkdir(parents=True, exist_ok=True)
        (originals / name).write_bytes(b'{"a": [1, {"b": 2}]}')
    numbers = [number for number in range(200) if {*bad.case_of(number).files} <= {"text.csv", "model/config.json"}]
    assert {bad.case_of(number).arguments[0] for number in range(200)} >= {"models", "fetch", "check", "bench", "train"}
    changed = 0
    for number in numbers:
        one, two = (bad.spoil(originals, tmp_path / f"{number}{again}", number) for again in "ab")
        assert one == two
        files = [sorted((tmp_path / f"{number}{again}").rglob("*.*")) for again in "ab"]
        assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
        whole = [(originals / path.relative_to(tmp_path / f"{number}a")).read_bytes() for path in files[0]]
        changed += [path.read_bytes() for path in files[0]] != whole or one[1] != bad.case_of(number).arguments
    assert changed > 0.8 * len(numbers)


def test_a_number_in_json_is_damaged_and_stays_json(faults):
    whole = json.dumps({"a": [1, {"b": 2}], "c": "text"}).encode()
    for number in range(50):
        spoilt, what = faults("damage")._json(whole, random.Random(number))
        json.loads(spoilt)
        assert what


def test_what_a_refused_command_leaves_is_seen(faults, tmp_path):
    bad, ended = faults("bad_inputs"), faults("child").Ended(2, "", "", 0.0, tmp_path)
    assert bad.left_behind(tmp_path, ended) == ""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").touch()
    assert bad.left_behind(tmp_path, ended) == "refused, and left recipe.json in --out"
    (tmp_path / "out" / ".partial-1-recipe.json").touch()
    assert bad.left_behind(tmp_path, ended) == "left .partial-1-recipe.json behind"


def test_a_kill_beside_a_rename_leaves_what_it_should(faults, tmp_path):
    def work():
        from sparseact.utils.files import write_atomically

        for name in ("a", "b"):
            with write_atomically(Path(name)) as path:
                path.write_text(name)

    importlib.import_module("sparseact.sweep.run")  # once, not in each fork
    kills, child = faults("kills"), faults("child")
    for at, files in ((1, []), (2, ["a"]), (3, ["a"]), (4, ["a", "b"]), (5, ["a", "b"])):
        ended = child.fork(kills.counted(work, at), tmp_path / str(at)).wait()
        assert ended.status == (-signal.SIGKILL if at < 5 else 0)
        found = sorted(path.name for path in (tmp_path / str(at)).iterdir() if path.name in "ab")
        assert found == files


def test_the_page_holds_the_table_of_its_results(faults):
    rows = [json.loads(line) for line in (ROOT / "docs/results/reliability.jsonl").read_text().splitlines()]
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    assert f"<!-- faults survived -->\n{faults('table').as_markdown(rows)}<!-- end -->" in page, "run: make reliability"
    assert rows
