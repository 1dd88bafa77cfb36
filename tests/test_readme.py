"""What the README shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_stands_on_the_first_screen_and_is_short():
    before, example = re.search(r"\A(.*?)```python\n(.*?)```", README, re.DOTALL).groups()
    assert before.count("\n") < 12
    assert len([line for line in example.splitlines() if line.strip()]) <= 10


@pytest.mark.smollm2
def test_the_example_runs_and_prints_what_the_readme_says(tmp_path):
    example, printed = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", README, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == printed.strip()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README))))
def test_make_targets_that_are_named_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_local_links_lead_somewhere(target):
    assert (ROOT / target).exists()
