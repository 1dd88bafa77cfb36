"""`sparseact sweep`."""

import json
import sys
from pathlib import Path
from shlex import join
from typing import Annotated

from cyclopts import Parameter

from sparseact.attribution.methods.corrected_gxo import HeadsFormula
from sparseact.attribution.registry import METRICS
from sparseact.cli.options import Correction, Count, Flag, ModelName, Names, Numbers, NumbersOrNone, Shared
from sparseact.sweep.plan import Plan

_LABEL_FREE = " and ".join(name for name, metric in METRICS.items() if not metric.is_oracle())
_METRICS = (
    f"A list from {', '.join(METRICS)}, or of another package. All but {_LABEL_FREE} use the label and are marked as "
    "oracles."
)


def sweep(
    *,
    metrics: Annotated[Names, Parameter(help=_METRICS)] = Plan.metrics,
    units: Names = Plan.units,
    sparsity: Numbers = Plan.sparsity,
    heads_sparsity: NumbersOrNone = Plan.heads_sparsity,
    prompts: str | None = None,
    column: str | None = None,
    limit: Count | None = None,
    max_new_tokens: Count = Plan.max_new_tokens,
    correction: Correction = Plan.correction,
    heads_formula: HeadsFormula = Plan.heads_formula,
    ig_steps: Count = Plan.ig_steps,
    chat: bool = Plan.chat,
    bug_compatible: Flag = Plan.bug_compatible,
    report: bool = True,
    out: Path = Path("runs/sweep"),
    model: ModelName = "smollm2",
    shared: Shared = Shared(),
) -> str:
    """Measure quality against sparsity, per metric: the experiment of "Achieving Sparse Activation in Small
    Language Models" (Song et al. 2024).

    For every prompt the model answers densely; that answer is the label. Each metric then says which
    neurons or heads matter for each of the label's tokens, the others are switched off at each level of
    sparsity, and what the sparse model says is compared with the label. Ctrl-C keeps what is done; the
    same command goes on from there.

    Examples: sparseact sweep --limit 20;
    sparseact sweep --metrics corrected-gxo,magnitude --units mlp,both --sparsity 0.5,0.8 --out runs/mine

    Args:
        units: What is switched off, a list from mlp, heads, both.
        sparsity: Levels between 0 and 1, the share of the units that is switched off.
        heads_sparsity: Levels for the heads where units is both, one per level of --sparsity.
        prompts: A txt, csv, jsonl or parquet file, or the name of a data set; by default the built-in questions.
        column: The column of --prompts that holds the text.
        limit: Use only the first prompts.
        max_new_tokens: The longest label, in tokens.
        correction: The factor on the corrective term of corrected-gxo: a number (the paper has 0.5),
            or auto: 6/sqrt(N) for N neurons, 1/sqrt(N) for N heads.
        heads_formula: How corrected-gxo scores a head: as the released code does, or as the theorem says.
        ig_steps: Steps of integrated gradients.
        chat: Put the prompt into the tokenizer's chat template where it has one.
        bug_compatible: Follow the released code's protocol: mask the first 75% of the layers, leave the
            first token dense, count heads 1/3 and MLP 2/3.
        report: Write curve.png and report.html too.
        out: The folder for sweep.csv, samples.parquet, meta.json, curve.png and report.html.
        model: smollm2, gemma3, a hub id, a folder or a .gguf file.
    """
    with shared.session():
        from sparseact.data import load_prompts
        from sparseact.models import describe_model, load
        from sparseact.report import write_report
        from sparseact.sweep.run import run_sweep
        from sparseact.sweep.table import agreement_text
        from sparseact.utils.files import check_folder

        plan = Plan(
            metrics=metrics,
            units=units,
            sparsity=sparsity,
            heads_sparsity=heads_sparsity,
            correction=correction,
            heads_formula=heads_formula,
            ig_steps=ig_steps,
            max_new_tokens=max_new_tokens,
            seed=shared.seed,
            chat=chat,
            bug_compatible=bug_compatible,
        )
        questions = load_prompts(prompts, column=column, limit=limit)
        check_folder(out)
        language_model, tokenizer = load(model, device=shared.device)
        table = run_sweep(
            language_model,
            tokenizer,
            plan,
            questions,
            out,
            model_info=describe_model(model, language_model),
            prompts_source=prompts or "built-in questions",
            command=join(["sparseact", *sys.argv[1:]]),
        )
        if report:
            write_report(out)
    used = str(language_model.device)
    record = {"out": str(out), "device": used, "rows": json.loads(table.to_json(orient="records"))}  # NaN is null there
    title = "agreement with the dense model's own tokens, by sparsity"
    return shared.answer(record, f"{title}:\n\n{agreement_text(table)}\n\nwritten to {out} (device {used})")
