"""Sparse activation in small language models.

`load` gives an ordinary transformers model, `attribute` says how much each neuron and head mattered
for each generated token. Everything is imported on first use, so that `import sparseact` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseact.attribution import Scores as Scores
    from sparseact.attribution import attribute as attribute
    from sparseact.engine.engine import Engine as Engine
    from sparseact.errors import InputError as InputError
    from sparseact.evaluation import evaluate as evaluate
    from sparseact.feasibility import check as check
    from sparseact.generation.generate import generate as generate
    from sparseact.models import load as load
    from sparseact.recipes.recipe import Recipe as Recipe
    from sparseact.recipes.recipe import load_recipe as load_recipe
    from sparseact.training.train_model import train as train

__version__ = "0.2.0"

_HOME_OF_NAME = {
    "Engine": "sparseact.engine.engine",
    "InputError": "sparseact.errors",
    "Scores": "sparseact.attribution",
    "attribute": "sparseact.attribution",
    "Recipe": "sparseact.recipes.recipe",
    "check": "sparseact.feasibility",
    "evaluate": "sparseact.evaluation",
    "generate": "sparseact.generation.generate",
    "load": "sparseact.models",
    "load_recipe": "sparseact.recipes.recipe",
    "train": "sparseact.training.train_model",
}
_MODULES = {
    name: f"sparseact.{name}"
    for name in (
        "attribution",
        "calibration",
        "data",
        "engine",
        "errors",
        "evaluation",
        "feasibility",
        "generation",
        "masked",
        "models",
        "policies",
        "recipes",
        "report",
        "sites",
        "sweep",
        "training",
    )
} | {"select": "sparseact.masked.selectors"}

__all__ = [
    "Engine",
    "InputError",
    "Recipe",
    "Scores",
    "__version__",
    "attribute",
    "check",
    "evaluate",
    "generate",
    "load",
    "load_recipe",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF_NAME:
        return getattr(import_module(_HOME_OF_NAME[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'sparseact' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
