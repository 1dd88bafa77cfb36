"""`sparseact eval`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from sparseact.cli.options import Count, DType, ModelName, NamesIfAny, Shared
from sparseact.errors import InputError


def evaluate(
    *,
    recipe: Path | None = None,
    text: str | None = None,
    tasks: NamesIfAny = (),
    context: Count = 512,
    stride: Count | None = None,
    phase: Literal["prefill", "decode"] | None = None,
    limit: Count | None = None,
    dtype: DType = "float32",
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str:
    """Measure a recipe against the dense model: perplexity, KL divergence, agreement, and what was not read.

    Examples: sparseact eval --recipe runs/recipe --text other.txt;
    sparseact eval --recipe runs/recipe --tasks arc_easy,hellaswag --limit 100

    Args:
        recipe: A folder that calibrate wrote; without it the dense model alone is measured.
        text: A txt, csv, jsonl or parquet file to measure perplexity on.
        tasks: Tasks of lm-evaluation-harness, by name or .yaml file, instead of --text or beside it; needs
            the extra eval.
        context: Tokens of a window; each starts with the BOS token where the tokenizer has one.
        stride: Tokens from one window to the next; a token is predicted once. By default windows do not
            overlap, in the decode phase by half.
        phase: prefill reads a window at once, decode reads the predicted tokens one at a time. By default
            decode for a recipe that leaves the prompt dense, else prefill.
        limit: Use so many windows of --text, spread evenly, and so many documents of each task.
        dtype: Type of the weights: float32, bfloat16, float16 or float64.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    if text is None and not tasks:
        raise InputError("--text or --tasks: say what to measure on")
    with shared.session():
        from sparseact.data import load_text
        from sparseact.evaluation import evaluate
        from sparseact.models import load
        from sparseact.policies import load_recipe

        loaded = load_recipe(recipe) if recipe is not None else None
        read = load_text(text) if text is not None else None
        language_model, tokenizer = load(model, device=shared.device, dtype=dtype)
        record: dict[str, Any] = {}
        shown = []
        if read is not None:
            found = evaluate(
                language_model,
                tokenizer,
                read,
                recipe=loaded,
                context=context,
                stride=stride,
                limit=limit,
                phase=phase,
            )
            if found.overlap:
                sys.stderr.write(
                    f"sparseact: warning: {found.overlap:.1%} of the text that the recipe was calibrated on is in "
                    f"{text}; on unseen text it may do worse\n"
                )
            record |= asdict(found)
            shown.append(found.as_text())
        if tasks:
            from sparseact.evaluation.lm_eval import run_tasks

            scores = run_tasks(language_model, tokenizer, tasks, recipe=loaded, limit=limit, seed=shared.seed)
            record |= {"achieved": scores["achieved"]} | record | {"tasks": scores["tasks"]}
            shown += [
                f"{task}  {name}  {value:.4f}"
                for task, metrics in scores["tasks"].items()
                for name, value in metrics.items()
            ]
    used = str(language_model.device)
    record |= {"model": model, "recipe": str(recipe) if recipe else None, "device": used, "dtype": dtype}
    return shared.answer(record, "\n".join([*shown, f"(device {used})"]))
