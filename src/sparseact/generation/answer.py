"""Answer a prompt by the model of a name: what computes is chosen, made ready and said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, Literal

from sparseact.errors import InputError, MissingExtraError, UnsupportedModelError, UnsupportedRecipeError, unknown_name
from sparseact.generation.generate import LOSSLESS_IS_GREEDY, write
from sparseact.generation.generated import Generated
from sparseact.generation.sampling import Sampling
from sparseact.models import load, load_tokenizer, weights_path

if TYPE_CHECKING:
    from sparseact.engine.engine import Engine
    from sparseact.recipes.recipe import Recipe

    Run = tuple[Recipe | None, Callable[[str], object]]

TYPES = {"cpu": ("q8", "q4", "bf16", "f32", "file"), "torch": ("float32", "bfloat16", "float16", "float64")}
"""Types of the weights by what computes; the first is the default."""
PATIENCE = 3.0
"""Seconds until a user is told what takes so long."""

EngineName = Literal["cpu", "torch"]


@dataclass(frozen=True)
class Answer:
    """What was written, and by what.

    Attributes:
        engine, dtype, device, threads: what computed.
        texts: the answer; and the dense model's, where it was asked for.
    """

    engine: EngineName
    dtype: str
    device: str
    threads: int
    texts: list[Generated]

    @property
    def written(self) -> Generated:
        """The answer."""
        return self.texts[0]

    @property
    def dense(self) -> Generated | None:
        """The answer without the recipe, if it was asked for."""
        return self.texts[1] if len(self.texts) > 1 else None


def answer(
    model: str,
    prompt: str,
    sampling: Sampling,
    *,
    recipe: str | Path | None = None,
    max_new_tokens: int = 128,
    stop: Sequence[str] = (),
    chat: bool = True,
    engine: EngineName | None = None,
    dtype: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    screen: bool = False,
    lossless: bool = False,
    against_dense: bool = False,
    on_text: Callable[[str], object] = lambda text: None,
    say: Callable[[str], object] = lambda line: None,
) -> Answer:
    """Answer a prompt by a model and a recipe that are known by their names.

    Args:
        model: as for `sparseact.load`.
        recipe: the folder of one; dense if None.
        max_new_tokens, stop, chat, on_text: see `sparseact.generate`.
        engine: cpu for the engine, torch for a model of transformers; None for the engine where it runs this model and
            this recipe, and torch elsewhere, which is said.
        dtype: type of the weights, see `TYPES`.
        device: for torch, as for `sparseact.load`.
        threads: to compute with; what the engine or torch takes if None.
        screen, lossless: see `sparseact.Engine`.
        against_dense: answer again without the recipe.
        say: called with lines for the user: what takes so long, and why torch computes.

    Raises:
        InputError: options that do not go together, no such model or recipe, or the prompt does not fit.
        MissingExtraError: torch is needed, and not installed.
    """
    asked: EngineName | None = engine or ("cpu" if screen or lossless else None)
    impossible = {
        "screen: goes with `engine` cpu, temperature 0 and no repetition penalty only": screen
        and (engine == "torch" or not sampling.greedy),
        "lossless: needs `engine` cpu, not torch": lossless and engine == "torch",
        "lossless: a recipe drafts the answer; give one with `recipe`": lossless and recipe is None,
        LOSSLESS_IS_GREEDY: lossless and not sampling.greedy,
        "against_dense: compares a recipe with the dense model; give one with `recipe`": against_dense
        and recipe is None,
        f"device: {device} does not go with `engine` cpu": asked == "cpu" and device not in {"auto", "cpu"},
    }
    for reason, found in impossible.items():
        if found:
            raise InputError(reason)
    chosen, why = _choose(asked, dtype, device)
    if dtype is not None and dtype not in TYPES[chosen]:
        raise unknown_name(f"dtype: unknown type of weights for `engine` {chosen}", dtype, TYPES[chosen])
    runs: list[Run] = [(None if recipe is None else _load_recipe(recipe), on_text)]
    if against_dense:
        runs.append((None, lambda text: None))
    ask = partial(write, prompt=prompt, sampling=sampling, max_new_tokens=max_new_tokens, stop=stop, chat=chat)
    if chosen == "cpu":
        used = dtype or TYPES["cpu"][0]
        options = {"dtype": used, "threads": threads, "screen": screen, "lossless": lossless}
        try:
            return Answer("cpu", used, *_by_engine(ask, runs, model, options, say))
        except (UnsupportedModelError, UnsupportedRecipeError) as error:
            if asked is not None or dtype is not None:
                raise
            why = str(error)
    _need_torch(why)
    if why:
        say(f"torch computes, not the engine: {why}")
    used = dtype or TYPES["torch"][0]
    return Answer("torch", used, *_by_torch(ask, runs, model, used, device, threads))


def _choose(engine: EngineName | None, dtype: str | None, device: str) -> tuple[EngineName, str]:
    """What computes, as far as it is known before the model is read; and why it is torch, if nobody asked for it."""
    if engine is not None:
        return engine, ""
    if device not in {"auto", "cpu"}:
        return "torch", f"it does not run on {device}"
    if dtype in TYPES["torch"]:
        return "torch", f"its types of weights are {', '.join(TYPES['cpu'])}, not {dtype}"
    return "cpu", ""


def _need_torch(why: str) -> None:
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "torch", why)


def _load_recipe(folder: str | Path) -> Recipe:
    from sparseact.recipes.recipe import load_recipe

    return load_recipe(folder)


def _by_engine(
    ask: Callable[..., Generated],
    runs: Sequence[Run],
    model: str,
    options: dict[str, Any],
    say: Callable[[str], object],
) -> tuple[str, int, list[Generated]]:
    """The device, the threads, and what each of the runs wrote."""
    from sparseact.engine.engine import Engine

    path, written, threads = weights_path(model), [], 0
    for recipe, on_text in runs:
        drafts = options["lossless"] and recipe is not None  # the dense run beside it has no recipe
        make = partial(Engine.from_model, path, recipe, **options | {"lossless": drafts})
        with _prepared(make, say) as engine:
            tokenizer, ends = load_tokenizer(model)
            written.append(ask(engine, tokenizer, ends=ends, on_text=on_text))
            threads = engine.threads
    return "cpu", threads, written


def _prepared(make: Callable[[], Engine], say: Callable[[str], object]) -> Engine:
    """An engine whose step is compiled, or its compiled code read, before the time is taken."""
    patience = Timer(
        PATIENCE, say, ["preparing the engine; the first time on a machine, it is compiled, which takes some seconds"]
    )
    patience.daemon = True
    patience.start()
    try:
        engine = make()
        engine.prefill([0])
        engine.step(0)
    finally:
        patience.cancel()
    return engine


def _by_torch(
    ask: Callable[..., Generated], runs: Sequence[Run], model: str, dtype: str, device: str, threads: int | None
) -> tuple[str, int, list[Generated]]:
    """As `_by_engine`."""
    import torch

    from sparseact.generation.masked import masked
    from sparseact.masked.decoding import stop_tokens

    if threads is not None:
        torch.set_num_threads(threads)
    language_model, tokenizer = load(model, device=device, dtype=dtype)
    written = []
    for recipe, on_text in runs:
        with masked(language_model, recipe) as backend:
            written.append(ask(backend, tokenizer, ends=stop_tokens(language_model), on_text=on_text))
    return str(language_model.device), torch.get_num_threads(), written
