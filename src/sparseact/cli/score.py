"""`sparseact score`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from sparseact.attribution.methods.corrected_gxo import CorrectedGxO, HeadsFormula
from sparseact.attribution.methods.integrated_gradients import STEPS
from sparseact.attribution.registry import METRICS
from sparseact.cli.options import Correction, Count, Flag, ModelName, Shared


def score(
    *,
    prompt: str,
    metric: Annotated[str, Parameter(help=f"One of {', '.join(METRICS)}, or of another package.")] = CorrectedGxO.name,
    units: Literal["mlp", "heads", "both"] = "both",
    max_new_tokens: Count = 32,
    correction: Correction = CorrectedGxO.correction,
    heads_formula: HeadsFormula = CorrectedGxO.heads_formula,
    ig_steps: Count = STEPS,
    chat: bool = True,
    interdependency: Flag = False,
    out: Path = Path("runs/score"),
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str:
    """Score every neuron and head for each token that the model answers to one prompt.

    Example: sparseact score --prompt "Why is the sky blue?" --metric gxo

    Args:
        prompt: The question.
        units: What is scored.
        max_new_tokens: The longest answer, in tokens.
        correction: The factor on the corrective term of corrected-gxo: a number (the paper has 0.5),
            or auto: 6/sqrt(N) for N neurons, 1/sqrt(N) for N heads.
        heads_formula: How corrected-gxo scores a head: as the released code does, or as the theorem says.
        ig_steps: Steps of integrated gradients.
        chat: Put the prompt into the tokenizer's chat template where it has one.
        interdependency: Also measure how the scores change when units are switched off, and how often the
            paper's bounds on that hold (Lemma 3.1, Theorem 3.3); about a minute.
        out: The folder for scores.safetensors, scores.json and heatmap.png, and with --interdependency for
            interdependency.csv and interdependency-cases.csv.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    with shared.session():
        from sparseact.attribution import attribute, measure_interdependency
        from sparseact.models import load
        from sparseact.report import write_heatmap
        from sparseact.utils.files import check_folder, save_somewhere

        check_folder(out)

        language_model, tokenizer = load(model, device=shared.device)
        scores = attribute(
            language_model,
            tokenizer,
            prompt,
            metric=metric,
            units=units,
            max_new_tokens=max_new_tokens,
            correction=correction,
            heads_formula=heads_formula,
            ig_steps=ig_steps,
            chat=chat,
            seed=shared.seed,
        )
        values = {name: value.float().cpu().numpy() for name, value in scores.values.items()}
        words = [tokenizer.decode([token]) for token in scores.tokens.tolist()]

        def save(folder: Path) -> None:
            scores.save(folder)
            write_heatmap(values, words, folder / "heatmap.png", title=f"{metric}: {prompt}")

        save_somewhere(out, save)
        text = answered = tokenizer.decode(scores.tokens)
        used = str(language_model.device)
        record: dict[str, Any] = {"out": str(out), "model": model, "metric": metric, "device": used}
        record |= {"text": answered, "tokens": len(scores.tokens)}
        record["files"] = ["scores.safetensors", "scores.json", "heatmap.png"]
        if interdependency:
            found = measure_interdependency(language_model, scores, seed=shared.seed)
            found.save(out)
            record["interdependency"] = found.summary()
            record["files"] += ["interdependency.csv", "interdependency-cases.csv"]
            text += f"\n\n{found.as_text()}"
    return shared.answer(record, f"{text}\n\nwritten to {out} (device {used})")
