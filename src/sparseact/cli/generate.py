"""`sparseact generate`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, Literal

from sparseact.cli.generation_stats import statistics
from sparseact.cli.options import Count, Flag, ModelName, Shared, Strings
from sparseact.errors import InputError, unknown_name

if TYPE_CHECKING:
    from sparseact.engine.engine import Engine
    from sparseact.generation.stream import Generated, Sampling
    from sparseact.policies import Recipe

    _Run = tuple[Recipe | None, Callable[[str], object]]

# The first is the default.
_TYPES = {"torch": ("float32", "bfloat16", "float16", "float64"), "cpu": ("q8", "q4", "bf16", "f32", "file")}
_PATIENCE = 3.0  # seconds until a user is told what takes so long


def generate(
    *,
    prompt: str,
    recipe: Path | None = None,
    max_new_tokens: Count = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Strings = (),
    chat: bool = True,
    engine: Literal["torch", "cpu"] = "torch",
    dtype: str | None = None,
    screen: Flag = False,
    lossless: Flag = False,
    stats: Flag = False,
    against_dense: Flag = False,
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str | None:
    """Answer a prompt, sparsely if a recipe is given, and print the text as it comes.

    Example: sparseact generate --engine cpu --recipe runs/recipe --prompt "Why is the sky blue?" --stats

    Args:
        prompt: The question.
        recipe: A folder that calibrate wrote; without it the model is dense.
        max_new_tokens: The longest answer, in tokens.
        temperature: 0 takes the most likely token, else tokens are sampled.
        top_k: Sample among so many of the most likely tokens; 0 among all.
        top_p: Sample among the fewest most likely tokens that hold this share of the probability.
        min_p: Sample among the tokens that are at least this much as likely as the most likely one.
        repetition_penalty: Divides the logits of tokens that the text has; 1 leaves them.
        stop: End the answer before this string; may be given several times.
        chat: Put the prompt into the tokenizer's chat template where it has one.
        engine: What computes. torch masks what is off, which measures quality and saves no time; cpu does not
            read the weights of what is off.
        dtype: Type of the weights. torch: float32 (default), bfloat16, float16 or float64. cpu: q8 (default), q4,
            bf16, f32, or file for the types that the file has.
        screen: Find the most likely token by a small part of the model's head; one in 1000 or fewer differs. Only for
            --engine cpu and temperature 0.
        lossless: Write the dense model's answer, and let the recipe only draft it where that saves time (cpu).
        stats: Say how fast it was and what each layer read.
        against_dense: Answer again without the recipe, and say how that compares; implies --stats.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    out = sys.stdout

    def show(piece: str) -> None:
        if not shared.json:
            out.write(piece)
            out.flush()

    dtype = _checked_type(dtype, engine)
    if screen and (engine != "cpu" or temperature or repetition_penalty != 1):
        raise InputError("--screen: goes with --engine cpu, temperature 0 and no repetition penalty only")
    if against_dense and recipe is None:
        raise InputError("--against-dense: compares a recipe with the dense model; give one with --recipe")
    # The engine takes its threads itself, and needs no torch.
    with replace(shared, threads=None if engine == "cpu" else shared.threads).session(), _interruptible(show):
        from sparseact.generation.stream import Sampling

        sampling = Sampling(repetition_penalty, temperature, top_k, top_p, min_p, shared.seed)
        if lossless:
            _check_lossless(recipe, engine, sampling)
        options = {**asdict(sampling), "max_new_tokens": max_new_tokens, "stop": stop, "chat": chat}
        runs: list[_Run] = [(_loaded(recipe), show)]
        if against_dense:
            runs.append((None, lambda piece: None))
        write = partial(_with_engine, screen=screen, lossless=lossless) if engine == "cpu" else _with_torch
        (written, *rest), used = write(prompt, runs, options, model, dtype, shared)
    dense = rest[0] if rest else None
    show("\n")
    sys.stderr.write(
        f"{written.tokens} tokens, {written.bytes_per_token / 1e6:.1f} MB of weights each, "
        f"{written.achieved:.1%} of those the recipe chooses among left out (device {used['device']})\n"
    )
    if stats or dense:
        sys.stderr.write(statistics(written, dense))
    record = {
        **_record(written),
        "model": model,
        "recipe": str(recipe) if recipe else None,
        "engine": engine,
        "dtype": dtype,
        "lossless": lossless,
        **used,
        **({"dense": _record(dense)} if dense else {}),
    }
    return shared.answer(record, "") if shared.json else None


def _check_lossless(recipe: Path | None, engine: str, sampling: "Sampling") -> None:
    if engine != "cpu":
        raise InputError(f"--lossless: needs --engine cpu, not {engine}")
    if recipe is None:
        raise InputError("--lossless: a recipe drafts the answer; give one with --recipe")
    if not sampling.greedy:
        raise InputError("--lossless: takes the most likely token; leave out --temperature and --repetition-penalty")


def _checked_type(dtype: str | None, engine: str) -> str:
    valid = _TYPES[engine]
    if dtype is None:
        return valid[0]
    if dtype not in valid:
        raise unknown_name(f"--dtype: unknown type of weights for --engine {engine}", dtype, valid)
    return dtype


def _loaded(recipe: Path | None) -> "Recipe | None":
    if recipe is None:
        return None
    from sparseact.policies import load_recipe

    return load_recipe(recipe)


def _with_torch(
    prompt: str, runs: "list[_Run]", options: dict[str, Any], model: str, dtype: str, shared: Shared
) -> "tuple[list[Generated], dict[str, Any]]":
    import torch

    from sparseact.models import load
    from sparseact.policies import generate_text

    language_model, tokenizer = load(model, device=shared.device, dtype=dtype)
    written = [
        generate_text(language_model, tokenizer, prompt, recipe=recipe, on_text=on_text, **options)
        for recipe, on_text in runs
    ]
    return written, {"device": str(language_model.device), "threads": torch.get_num_threads()}


def _with_engine(
    prompt: str,
    runs: "list[_Run]",
    options: dict[str, Any],
    model: str,
    dtype: str,
    shared: Shared,
    *,
    screen: bool,
    lossless: bool,
) -> "tuple[list[Generated], dict[str, Any]]":
    if shared.device not in {"auto", "cpu"}:
        raise InputError(f"--device: {shared.device} does not go with --engine cpu")

    from sparseact.engine.engine import Engine
    from sparseact.generation.cpu import generate as generate_with
    from sparseact.models import load_tokenizer, weights_path

    path = weights_path(model)
    tokenizer, ends = load_tokenizer(model)
    written, threads = [], 0
    for recipe, on_text in runs:
        drafts = lossless and recipe is not None  # the dense run beside it has no recipe
        make = partial(Engine.from_model, path, recipe, dtype, shared.threads, screen=screen, lossless=drafts)
        with _prepared(make) as engine:
            written.append(generate_with(engine, tokenizer, prompt, ends=ends, on_text=on_text, **options))
            threads = engine.threads
    return written, {"device": "cpu", "threads": threads}


def _prepared(make: "Callable[[], Engine]") -> "Engine":
    """An engine whose step is compiled, or its compiled code read, before the time is taken."""
    said = "sparseact: preparing the engine; the first time on a machine, it is compiled, which takes about a minute\n"
    patience = Timer(_PATIENCE, sys.stderr.write, [said])
    patience.daemon = True
    patience.start()
    try:
        engine = make()
        engine.prefill([0])
        engine.step(0)
    finally:
        patience.cancel()
    return engine


def _record(written: "Generated") -> dict[str, Any]:
    return {**asdict(written), "tokens_per_second": written.tokens_per_second}


@contextmanager
def _interruptible(show: Callable[[str], object]) -> Iterator[None]:
    """Ctrl-C ends the answer, and its line."""
    try:
        yield
    except KeyboardInterrupt as stop:
        show("\n")
        stop.add_note("the answer ends where it was")
        raise
