"""What must say the same in several files: the version, the Pythons, the pinned packages."""

import re
import tomllib
from pathlib import Path

import sparseact

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", name)]


def test_the_version_has_a_dated_section_in_the_changelog():
    sections = re.findall(r"^## (\S+) - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0][0] == sparseact.__version__
    assert [date for _, date in sections] == sorted((date for _, date in sections), reverse=True)


def test_the_same_pythons_are_promised_and_tested():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', workflow) == PYTHONS
    assert re.findall(r"^ +(3\.\d+)$", workflow, re.MULTILINE) == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_what_is_required_is_pinned():
    requirements = [
        *PROJECT["dependencies"],
        *(item for extra in PROJECT["optional-dependencies"].values() for item in extra),
    ]
    wanted = {re.split(r"[>=\[ ]", item)[0] for item in requirements} - {"sparseact"}
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert wanted <= pinned


def test_the_base_is_light():
    names = {re.split(r"[>=]", item)[0] for item in PROJECT["dependencies"]}
    assert not names & {"torch", "transformers", "accelerate", "pandas", "matplotlib", "datasets"}
