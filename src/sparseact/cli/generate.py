"""`sparseact generate`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparseact.cli.generation_stats import statistics, summary
from sparseact.cli.options import Count, Flag, ModelName, Shared, Strings

if TYPE_CHECKING:
    from sparseact.generation.generated import Generated


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
    engine: Literal["cpu", "torch"] | None = None,
    dtype: str | None = None,
    screen: Flag = False,
    lossless: Flag = False,
    stats: Flag = False,
    against_dense: Flag = False,
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str | None:
    """Answer a prompt, sparsely if a recipe is given, and print the text as it comes.

    Example: sparseact generate --recipe runs/recipe --prompt "Why is the sky blue?" --stats

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
        engine: What computes. cpu does not read the weights of what is off; torch masks what is off, which measures
            quality and saves no time. By default cpu where it runs the model and the recipe, else torch.
        dtype: Type of the weights. cpu: q8 (default), q4, bf16, f32, or file for the types that the file has. torch:
            float32 (default), bfloat16, float16 or float64.
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

    with shared.session(with_torch=False), _interruptible(show):
        from sparseact.generation.answer import answer
        from sparseact.generation.sampling import Sampling
        from sparseact.utils.progress import say

        found = answer(
            model,
            prompt,
            Sampling(repetition_penalty, temperature, top_k, top_p, min_p, shared.seed),
            recipe=recipe,
            max_new_tokens=max_new_tokens,
            stop=stop,
            chat=chat,
            engine=engine,
            dtype=dtype,
            device=shared.device,
            threads=shared.threads,
            screen=screen,
            lossless=lossless,
            against_dense=against_dense,
            on_text=show,
            say=say,
        )
    show("\n")
    sys.stderr.write(summary(found))
    if stats or found.dense:
        sys.stderr.write(statistics(found))
    record = _record(found.written) | {"model": model, "recipe": str(recipe) if recipe else None, "lossless": lossless}
    record |= {name: getattr(found, name) for name in ("engine", "dtype", "device", "threads")}
    record |= {"dense": _record(found.dense)} if found.dense else {}
    return shared.answer(record, "") if shared.json else None


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
