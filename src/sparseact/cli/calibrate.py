"""`sparseact calibrate`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from sparseact.cli.options import Flag, ModelName, NamesIfAny, Share, Shared
from sparseact.errors import InputError

if TYPE_CHECKING:
    from sparseact.policies import Policy


def calibrate(
    *,
    policy: str = "sparseact",
    sparsity: float | None = None,
    max_perplexity_increase: Share | None = None,
    text: str | None = None,
    option: NamesIfAny = (),
    dense_prompt: Flag = False,
    dense_first: int | None = None,
    list_policies: Annotated[Flag, Parameter(name="--list")] = False,
    out: Path = Path("runs/recipe"),
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str:
    """Fit a policy to a model, without labels, and write the recipe that eval and generate take.

    Examples: sparseact calibrate --sparsity 0.4 --text wiki.txt --out runs/40;
    sparseact calibrate --policy teal --max-perplexity-increase 1%

    Args:
        policy: The run-time rule; --list says which there are.
        sparsity: Share of the weight bytes that the policy chooses among which is not read, 0 to 1.
        max_perplexity_increase: Find the highest sparsity that costs no more than this, such as 1%, on the
            last quarter of the text; calibrates several times.
        text: A txt, csv, jsonl or parquet file to calibrate on, about 2,000 tokens of it, spread evenly; by
            default the model's own answers to the built-in questions.
        option: Options of the policy as NAME=VALUE, such as greedy=true for teal; docs/policies.md lists them.
        dense_prompt: Leave the prompt dense and be sparse in decoding only.
        dense_first: So many tokens at the start of each text stay dense.
        list_policies: List the policies, and exit.
        out: The folder for recipe.json and recipe.safetensors.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    with shared.session():
        from sparseact.policies import known_policies, summary

        if list_policies:
            lines = {name: summary(kind) for name, kind in known_policies().items()}
            width = max(map(len, lines))
            return shared.answer({"policies": lines}, "\n".join(f"{name:<{width}}  {lines[name]}" for name in lines))
        if (sparsity is None) == (max_perplexity_increase is None):
            raise InputError("--sparsity or --max-perplexity-increase: one of the two is needed")
        from sparseact.data import load_text, sketch_passages
        from sparseact.models import load
        from sparseact.policies import make_policy, max_sparsity, read_options, write_text
        from sparseact.utils.files import check_folder, save_somewhere

        def at(sparsity: float) -> "Policy":
            return make_policy(
                policy, sparsity, read_options(option), dense_prompt=dense_prompt, dense_first=dense_first
            )

        at(sparsity or 0.0)  # a mistake in the options is said before a model is loaded
        check_folder(out)
        written = load_text(text) if text is not None else None
        language_model, tokenizer = load(model, device=shared.device)
        if written is None:
            written = write_text(language_model, tokenizer, seed=shared.seed)
        if max_perplexity_increase is None:
            recipe = at(sparsity or 0.0).calibrate(language_model, tokenizer, written)
        else:
            recipe = max_sparsity(language_model, tokenizer, at, written, max_perplexity_increase)
        source = text or f"the model's own answers, seed {shared.seed}"
        seen = {**recipe.meta.get("calibration", {}), "source": source, "passages": sketch_passages(written)}
        recipe = replace(recipe, meta={**recipe.meta, "model": model, "calibration": seen})
        save_somewhere(out, recipe.save)
    record = {
        "out": str(out),
        "policy": recipe.policy,
        "sparsity": recipe.sparsity,
        "model": model,
        "device": str(language_model.device),
        "text": source,
        "seconds": recipe.meta.get("seconds"),
        "perplexity_increase": recipe.meta.get("perplexity_increase"),
    }
    return shared.answer(record, f"{recipe.policy} at sparsity {recipe.sparsity:.3g}, written to {out}")
