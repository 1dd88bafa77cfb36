"""benchmarks/sparse_that_pays.py: arms, factors and their intervals, the table."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from sparseact.errors import InputError

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("sparse_that_pays")


def test_an_arm_is_a_name_a_model_a_recipe_and_a_type(script):
    arm = script.Arm.parse("trained=runs/m@runs/m/recipe:q8+screen")
    assert (arm.name, arm.model, str(arm.spec)) == ("trained", "runs/m", "engine:q8+screen@runs/m/recipe")
    assert script.Arm.parse("dense=smollm2:file").spec.recipe is None


@pytest.mark.parametrize("text", ["smollm2:q8", "a=smollm2", "=smollm2:q8", "a=smollm2:q9"])
def test_what_is_no_arm_is_refused(script, text):
    with pytest.raises(InputError, match=r"^arms: "):
        script.Arm.parse(text)


def test_a_factor_is_of_perplexities_and_its_interval_is_paired(script):
    reference = np.array([1.0, 2.0, 3.0])  # windows differ much, the arms do not
    middle, low, high = script.factor(reference + np.log(1.1), reference, np.random.default_rng(0))
    assert np.allclose([middle, low, high], 1.1)
    middle, low, high = script.factor(reference + np.array([0.0, 0.1, 0.2]), reference, np.random.default_rng(0))
    assert np.isclose(middle, np.exp(0.1))
    assert np.allclose([low, high], [1, np.exp(0.2)])  # one draw in 27 takes a single window three times


def test_the_table_has_a_row_for_each_arm_and_ratios_of_the_same_round(script):
    row = {
        "arm": "a",
        "runner": "engine:bf16",
        "bytes_per_token": 9e7,
        "factor": {"wiki": [1.0, 0.99, 1.01]},
        "tokens_per_second_2": [99.0, 101.0],
    }
    assert script.table([row]).splitlines() == [
        "| arm | MB a token | wiki | tokens/s, 2 thread(s) |",
        "|---|---|---|---|",
        "| a | 90.0 | x1.000 (0.990 to 1.010) | 100 |",
    ]
    base = row | {"arm": "q", "runner": "engine:q8", "tokens_per_second_2": [90.0, 202.0]}
    screened = base | {"arm": "s", "runner": "engine:q8+screen"}
    assert script.table([row, base, screened]).splitlines()[2:] == [
        "| a | 90.0 | x1.000 (0.990 to 1.010) | 100 | 0.80 [0.50, 1.10] |",  # 99 / 90 and 101 / 202
        "| q | 90.0 | x1.000 (0.990 to 1.010) | 146 | 1.00 [1.00, 1.00] |",
        "| s | – | x1.000 (0.990 to 1.010) | 146 | 1.00 [1.00, 1.00] |",
    ]
