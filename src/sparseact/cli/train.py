"""`sparseact train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from sparseact.cli.options import Count, Flag, ModelName, NamesIfAny, NumbersOrNone, Shared
from sparseact.errors import InputError, require

if TYPE_CHECKING:
    from sparseact.training import Trained


def train(
    *,
    method: str = "first-look",
    sparsity: float = 0.5,
    text: NamesIfAny = ("own",),
    proportions: NumbersOrNone = None,
    tokens: int | None = None,
    local_tokens: int = 0,
    objective: Literal["distil", "lm", "both"] | None = None,
    option: NamesIfAny = (),
    lora: int = 0,
    lr: float = 5e-5,
    constants_lr: float = 5e-4,
    router_lr: float = 1e-3,
    batch: Count = 2,
    window: Count = 512,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    gradient_checkpointing: Flag = False,
    twin: Flag = False,
    checkpoint_every: Count = 50,
    list_methods: Annotated[Flag, Parameter(name="--list")] = False,
    out: Path = Path("runs/trained"),
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str:
    """Train a model a little under a policy's masks, so that it loses less by them.

    The model learns from its dense self while the policy's masks are on; thresholds are steered to each layer's
    density, and constants in place of what is off are learned. --out becomes an ordinary folder of transformers with
    the recipe for the new weights in it. The same command goes on where a run was stopped.

    Examples: sparseact train --method first-look --sparsity 0.5 --text wiki.txt,own --tokens 80000 --out runs/sparse;
    sparseact eval --model runs/sparse --recipe runs/sparse/recipe --text other.txt

    Args:
        method: A policy, or dense (no mask, on the text's own loss); --list says which can be trained.
        sparsity: Share of the weight bytes that the policy chooses among which is not read, 0 to 1.
        text: A list of txt, csv, jsonl or parquet files, and own: what the dense model writes itself, kept in the
            cache folder. The tail of each is kept for measuring.
        proportions: How much of each text, a number each; by default as much of one as of another.
        tokens: How many tokens to train on; 0 writes the untrained start.
        local_tokens: How many tokens to train on before that, each layer on its own: cheaper, and no logits.
        objective: distil learns the dense model's distributions, lm the text, both half and half; by default distil.
        option: Options of the policy as NAME=VALUE.
        lora: Train adapters of this rank and merge them at the end; 0 trains the whole model without embeddings.
        lr: Learning rate of AdamW: 10 steps up, then in a straight line down to 5%. A mask that costs little at the
            start loses by a high one; one that costs much may want 2e-4.
        constants_lr: Learning rate of the constants in place of what is off; 0 leaves them out.
        router_lr: Learning rate of routers; 0 leaves them as they were calibrated.
        batch: Windows of a step.
        window: Tokens of a window.
        dtype: Type of the products: bfloat16, float32, or auto, which is bfloat16 where the processor has it.
        gradient_checkpointing: Compute activations twice, for less memory.
        twin: Train the dense twin on the same tokens too, in twin below --out; doubles the time.
        checkpoint_every: Steps between checkpoints, from which a stopped run goes on.
        list_methods: List the methods, and exit.
        out: The folder for the model, recipe, train.json and report.html.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    with shared.session():
        require("train", "torch", "transformers", "accelerate")
        from sparseact.models import load
        from sparseact.policies import read_options
        from sparseact.training import Options, methods, train
        from sparseact.utils.files import check_folder

        if list_methods:
            return _list_methods(shared, methods())
        if tokens is None:
            raise InputError("--tokens: say how many to train on, such as 100000")
        asked: dict[str, Any] = {
            "method": method,
            "sparsity": sparsity,
            "policy_options": read_options(option),
            "tokens": tokens,
            "local_tokens": local_tokens,
            "objective": objective or ("lm" if method == "dense" else "distil"),
            "proportions": proportions or (),
            "lora": lora,
            "lr": lr,
            "constants_lr": constants_lr,
            "router_lr": router_lr,
            "batch": batch,
            "window": window,
            "seed": shared.seed,
            "dtype": dtype,
            "gradient_checkpointing": gradient_checkpointing,
        }
        Options(**asked)  # a mistake in the options is said before a model is loaded
        check_folder(out)
        language_model, tokenizer = load(model, device=shared.device)
        trained = train(
            language_model,
            tokenizer,
            text,
            out=out,
            twin=twin,
            checkpoint_every=checkpoint_every,
            name=model,
            threads=shared.threads,
            **asked,
        )
    run = {"method": method, "sparsity": sparsity, "tokens": tokens, "model": model}
    return shared.answer(run | {"device": str(language_model.device)} | _record(trained), _said(trained))


def _list_methods(shared: Shared, lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return shared.answer({"methods": lines}, "\n".join(f"{name:<{width}}  {lines[name]}" for name in lines))


def _record(trained: "Trained") -> dict[str, Any]:
    quality = {stage: {name: found.record() for name, found in of.items()} for stage, of in trained.quality.items()}
    recipe = str(trained.out / "recipe") if trained.recipe else None
    return {"out": str(trained.out), "recipe": recipe, "seconds": round(trained.seconds, 1), **quality}


def _said(trained: "Trained") -> str:
    lines = [
        f"{name}: perplexity {after.perplexity:.2f} ({after.increase:+.1%} over dense; "
        f"{trained.quality['before'][name].increase:+.1%} before), KL {after.kl:.4f}"
        for name, after in trained.quality["after"].items()
    ]
    return "\n".join([*lines, f"written to {trained.out}; the page is {trained.out / 'report.html'}"])
