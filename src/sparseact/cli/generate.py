"""`sparseact generate`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from sparseact.cli.options import Count, DType, ModelName, Shared


def generate(
    *,
    prompt: str,
    recipe: Path | None = None,
    max_new_tokens: Count = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    chat: bool = True,
    engine: Literal["torch"] = "torch",
    dtype: DType = "float32",
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str:
    """Answer a prompt, sparsely if a recipe is given, and print the text as it comes.

    Example: sparseact generate --recipe runs/recipe --prompt "Why is the sky blue?"

    Args:
        prompt: The question.
        recipe: A folder that calibrate wrote; without it the model is dense.
        max_new_tokens: The longest answer, in tokens.
        temperature: 0 takes the most likely token, else tokens are sampled.
        top_k: Sample among so many of the most likely tokens; 0 among all.
        top_p: Sample among the fewest most likely tokens that hold this share of the probability.
        chat: Put the prompt into the tokenizer's chat template where it has one.
        engine: What computes. torch masks what is off, which measures quality and saves no time.
        dtype: Type of the weights: float32, bfloat16, float16 or float64.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    screen = sys.stdout

    def show(piece: str) -> None:
        if not shared.json:
            screen.write(piece)
            screen.flush()

    with shared.session():
        from sparseact.models import load
        from sparseact.policies import generate_text, load_recipe

        loaded = load_recipe(recipe) if recipe is not None else None
        language_model, tokenizer = load(model, device=shared.device, dtype=dtype)
        written = generate_text(
            language_model,
            tokenizer,
            prompt,
            recipe=loaded,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=shared.seed,
            chat=chat,
            on_text=show,
        )
    used = str(language_model.device)
    sys.stderr.write(
        f"{written.tokens} tokens, {written.bytes_per_token / 1e6:.1f} MB of weights each, "
        f"{written.achieved:.1%} of those the recipe chooses among left out (device {used})\n"
    )
    record = {
        **asdict(written),
        "model": model,
        "recipe": str(recipe) if recipe else None,
        "engine": engine,
        "device": used,
    }
    return shared.answer(record, "")
