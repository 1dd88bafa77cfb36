"""What speaks for a sweep's numbers and what against, in sentences made from them."""

import numpy as np
import pandas as pd

from sparseact.report.frames import Run, bootstrap, cells
from sparseact.report.style import UNITS, metric_style, percent, share
from sparseact.report.words import Focus, capital, first, name_of

_FEW_PROMPTS = 30
_NEARLY_ALL = 0.9


def reasons_for(run: Run, at: Focus) -> list[str]:
    """What makes the headline's numbers believable, as far as this run shows it."""
    reasons = []
    gap = _gap(run.samples, at)
    if gap is not None and gap[0] > 0:
        reasons.append(_gap_sentence(at, gap))
    control = _control(run.rows, at)
    if control is not None and control < at.main["agreement"]:
        reasons.append(
            f"Random masks of the same size keep {share(control)}: which units stay matters, not only how many."
        )
    off = _furthest_from_requested(run.rows)
    if off <= 0.01:
        reasons.append(
            f"Sparsity is what was achieved, in weight bytes; it is within {off * 100:.1f} points of what was "
            "requested in every row."
        )
    if not run.meta.get("plan", {}).get("bug_compatible"):
        reasons.append(
            "The label is the dense model's own greedy text, kept as token ids; every layer is masked, from the "
            "first generated token on."
        )
    reasons.append(
        "Agreement is teacher-forced: every step sees the dense text so far, so it measures the masks and not "
        "the drift of the text. The free-running texts stand beside it."
    )
    return reasons


def reasons_against(run: Run, at: Focus) -> list[str]:
    """What the headline's numbers hide."""
    main, name, plan = at.main, name_of(at.main), run.meta.get("plan", {})
    reasons = []
    if at.oracle is not None:
        reasons.append(
            f"{capital(name)} is an oracle: its masks come from the gradient of the loss of the very token that "
            "is then counted as kept. No run-time rule has that token."
        )
        if main["nll"] < main["nll_dense"]:
            reasons.append(
                f"The label's NLL under {name} is {main['nll']:.2f} nats, below the dense model's "
                f"{main['nll_dense']:.2f}: the masks do not preserve what the model computes, they push "
                "it towards the label."
            )
    if at.oracle is not None and at.label_free is not None:
        reasons += _nearer_by_kl(at.oracle, at.label_free)
        reasons += _few_units_differ(run.diagnostics, at)
    if "magnitude" in set(run.rows["metric"]):
        reasons.append(
            "Magnitude never sees the label, but it too is read from a dense pass over the same token: "
            "it is no run-time rule either."
        )
    reasons.append(
        f"Left to write on its own, the model under {name} gives back {percent(main['exact'], 0)} of the dense "
        f"texts unchanged (BLEU {main['bleu']:.1f})."
    )
    reasons += _other_units(run.rows, at)
    control = _control(run.rows, at)
    if control is not None and control >= main["agreement"]:
        reasons.append(f"Random masks of the same size keep {share(control)}: no worse than {name}.")
    gap = _gap(run.samples, at)
    if gap is not None and gap[0] <= 0:
        reasons.append(_gap_sentence(at, gap) + " That does not set the first above the second.")
    off = _furthest_from_requested(run.rows)
    if off > 0.01:
        reasons.append(
            f"Achieved sparsity is up to {off * 100:.1f} points from what was requested; the curves use the achieved."
        )
    reasons += _unfinished(run)
    if plan.get("bug_compatible"):
        reasons.append(
            "Run with --bug-compatible, as the released code does it: only the first 75% of layers are masked, "
            "the first token is dense, and sparsity is counted with fixed weights of 1/3 and 2/3."
        )
    reasons.append("Nothing here ran faster: the masks multiply by zero. It is one model and one set of questions.")
    return reasons


def same_curves(rows: pd.DataFrame) -> list[str]:
    """Sentences on metrics whose curves cover each other, so that none seems to be missing."""
    columns = ["units", "sparsity", "agreement", "kl", "nll"]
    by_metric = {
        str(metric): part[columns].reset_index(drop=True) for metric, part in rows.groupby("metric", sort=False)
    }
    names = list(by_metric)
    return [
        f"{metric_style(one).name} and {metric_style(other).name} give the same numbers, so one curve covers the other."
        for i, one in enumerate(names)
        for other in names[i + 1 :]
        if by_metric[one].equals(by_metric[other])
    ]


def _nearer_by_kl(oracle: pd.Series, label_free: pd.Series) -> list[str]:
    if not label_free["kl"] < oracle["kl"]:
        return []
    kl = f"{label_free['kl']:.2f} nats per token, {name_of(oracle)} {oracle['kl']:.2f}"
    return [f"By KL, the whole distribution, {name_of(label_free)} stays nearer to the dense model: {kl}."]


def _few_units_differ(diagnostics: pd.DataFrame, at: Focus) -> list[str]:
    """Said where the oracle's masks are nearly those of the metric without a label."""
    if at.oracle is None or at.label_free is None or at.units == "both":
        return []
    overlap = diagnostics[(diagnostics["quantity"] == "overlap") & (diagnostics["other"] == at.label_free["metric"])]
    same = cells(overlap, units=at.units, sparsity=at.sparsity, metric=at.oracle["metric"])["value"].mean()
    if not same >= _NEARLY_ALL:
        return []
    kept = f"{capital(name_of(at.label_free))} keeps {share(same)} of the units that {name_of(at.oracle)} keeps"
    return [f"{kept}: the lead rests on the few that the label picks."]


def _other_units(rows: pd.DataFrame, at: Focus) -> list[str]:
    """What the same metric keeps at the nearest level of the other kinds of units."""
    others = []
    for units, of_units in rows[rows["metric"] == at.main["metric"]].groupby("units", sort=False):
        if units != at.units:
            row = of_units.loc[(of_units["sparsity"] - at.sparsity).abs().idxmin()]
            others.append(f"{share(row['agreement'])} with {percent(row['achieved'], 0)} of {UNITS[str(units)]} off")
    if others:
        return [f"{capital(name_of(at.main))} keeps {' and '.join(others)} (achieved)."]
    if at.units == "mlp":
        return [f"Attention was left dense: {percent(at.sparsity)} of the MLP is not that share of the model."]
    return []


def _unfinished(run: Run) -> list[str]:
    done, planned = run.meta.get("prompts_done"), run.meta.get("prompts")
    reasons = []
    if isinstance(done, int) and isinstance(planned, int) and done < planned:
        reasons.append(f"The sweep is not finished: {done} of {planned} questions are done.")
    prompts = int(run.rows["prompts"].max())
    if prompts < _FEW_PROMPTS:
        reasons.append(f"There {'is' if prompts == 1 else 'are'} only {prompts} question{'s' * (prompts != 1)}.")
    return reasons


def _gap(samples: pd.DataFrame, at: Focus) -> tuple[float, float] | None:
    """Paired bootstrap 95% interval of the oracle's lead in agreement over the label-free metric."""
    if at.oracle is None or at.label_free is None or samples.empty:
        return None
    at_level = cells(samples, units=at.units, sparsity=at.sparsity)
    table = at_level.pivot_table(index="prompt", columns="metric", values="agreement", observed=True)
    pair = [at.oracle["metric"], at.label_free["metric"]]
    if not set(pair) <= set(table.columns) or len(table := table[pair].dropna()) < 2:
        return None
    tokens = at_level.groupby("prompt")["tokens"].first().loc[table.index].to_numpy(float)
    means = bootstrap(table.to_numpy(float), tokens)
    low, high = np.quantile(means[:, 0] - means[:, 1], [0.025, 0.975])
    return float(low), float(high)


def _gap_sentence(at: Focus, gap: tuple[float, float]) -> str:
    assert at.oracle is not None
    assert at.label_free is not None
    lead = at.oracle["agreement"] - at.label_free["agreement"]
    return (
        f"The lead of {name_of(at.oracle)} over {name_of(at.label_free)} is {lead:.2f}, with a 95% interval of "
        f"{gap[0]:.2f} to {gap[1]:.2f} (bootstrap over {int(at.oracle['prompts'])} questions, paired)."
    )


def _control(rows: pd.DataFrame, at: Focus) -> float | None:
    row = first(cells(rows, units=at.units, sparsity=at.sparsity, metric="random"))
    return None if row is None or at.main["metric"] == "random" else float(row["agreement"])


def _furthest_from_requested(rows: pd.DataFrame) -> float:
    # With both kinds of units the heads may have had a level of their own: nothing to compare with.
    alone = rows[rows["units"] != "both"]
    return float((alone["achieved"] - alone["sparsity"]).abs().max()) if len(alone) else 0.0
