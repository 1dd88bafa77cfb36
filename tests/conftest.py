"""What all tests share: no network, the built-in model from the cache, a tiny GGUF file."""

import os

# Before transformers is imported anywhere: a test that would download fails instead.
os.environ["HF_HUB_OFFLINE"] = "1"

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

from sparseact.models import cached_folder, load

NO_WEIGHTS = "the weights of smollm2 are not in the cache; get them with: make env"


# `nox -s light` has no torch: what stops at a package that an extra brings is skipped there, and counted as such. That
# the engine itself does not stop is tried by scripts/try_wheel.py.
WITHOUT_TORCH = find_spec("torch") is None
MISSING = re.compile(
    r"No module named '(captum|grimp|lm_eval|matplotlib|pandas|pyarrow|sacrebleu|sphinx|torch|transformers)\b"
)


def _skipped_for_what_is_missing(report, where):
    missing = MISSING.search(str(report.longrepr)) if WITHOUT_TORCH and report.failed else None
    if missing:
        report.outcome, report.longrepr = "skipped", (str(where), 0, f"Skipped: needs {missing[1]}")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _skipped_for_what_is_missing((yield), collector.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    return _skipped_for_what_is_missing((yield), item.path)


@pytest.fixture(autouse=True)
def _weights_of_smollm2(request):
    """A test marked `smollm2` fails without the weights: skipped, it would look as good as passed."""
    if request.node.get_closest_marker("smollm2") and cached_folder("smollm2") is None:
        pytest.fail(NO_WEIGHTS, pytrace=False)


@pytest.fixture(scope="session")
def smollm2():
    """The real SLM: (model, tokenizer), shared by all tests, so leave it as it was."""
    if cached_folder("smollm2") is None:
        pytest.fail(NO_WEIGHTS, pytrace=False)
    return load("smollm2", device="cpu")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A Llama of two layers with random weights in Q8_0, and a byte-level tokenizer of SmolLM's kind."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path
