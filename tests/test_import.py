"""`import sparseact` and `--help` load nothing heavy; the public names are there when asked for."""

import subprocess
import sys

import pytest

import sparseact

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "jinja2",
    "sacrebleu",
    "datasets",
    "gguf",
    "numba",
)


def heavy_modules_after(statement: str) -> list[str]:
    script = (
        f"import sys\n{statement}\nsys.stderr.write('\\nheavy: ' + ' '.join(m for m in {HEAVY} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stderr.rpartition("heavy: ")[2].split()


def test_import_is_light():
    assert heavy_modules_after("import sparseact") == []


def test_the_check_itself_notices_a_heavy_import():
    assert "numpy" in heavy_modules_after("import sparseact, numpy")


def test_the_engine_and_recipes_need_neither_torch_nor_transformers():
    """Which would take seconds at each start, and need not be installed."""
    loaded = heavy_modules_after(
        "import sparseact.engine.engine, sparseact.recipes.recipe, sparseact.generation.answer"
    )
    assert not {"torch", "transformers"} & {*loaded}


def test_the_speed_of_a_shape_needs_no_torch():
    assert not {"torch", "transformers"} & {
        *heavy_modules_after("import sparseact.bench.by_shape, sparseact.bench.report")
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["sweep", "--help"],
        ["score", "--help"],
        ["calibrate", "--help"],
        ["eval", "--help"],
        ["generate", "--help"],
        ["bench", "--help"],
        ["check", "--help"],
        ["--version"],
        ["swep"],
    ],
)
def test_help_is_light(arguments):
    assert heavy_modules_after(f"from sparseact.cli import main; main({arguments})") == []


@pytest.mark.parametrize("name", [name for name in sparseact.__all__ if name != "__version__"])
def test_public_names_are_there(name):
    assert callable(getattr(sparseact, name))


@pytest.mark.parametrize("name", ["models", "attribution", "sites", "recipes", "evaluation", "sweep", "report"])
def test_subpackages_are_reached_by_attribute(name):
    assert getattr(sparseact, name).__name__ == f"sparseact.{name}"


def test_dir_lists_public_names_and_subpackages():
    assert {"load", "attribute", "Scores", "InputError", "models", "sweep"} <= set(dir(sparseact))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'atribute'"):
        _ = sparseact.atribute
