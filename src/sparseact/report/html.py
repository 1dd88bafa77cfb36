"""The self-contained page of a sweep: pictures inside, no script, nothing fetched, all text escaped."""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from sparseact.report import pictures, reasons, style, words
from sparseact.report.frames import Run, cells, read_run
from sparseact.report.plots import write_curve
from sparseact.report.style import UNITS, in_order
from sparseact.report.texts import sampled_texts
from sparseact.utils.files import write_atomically


def write_report(folder: Path) -> None:
    """Write curve.png and report.html into `folder`, as `sparseact.report.write_report` says."""
    run = read_run(folder)
    at = words.focus(run)
    page = render(run, at)
    write_curve(run.rows, folder / "curve.png", units=at.units, title=_curve_title(run, at))
    with write_atomically(folder / "report.html") as temporary:
        # "replace": JSON can hold half a surrogate pair, UTF-8 cannot.
        temporary.write_bytes(page.encode("utf-8", errors="replace"))


def render(run: Run, at: words.Focus) -> str:
    """The page as HTML."""
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("template.html")
    rows, panels = run.rows, pictures.panels(run.rows)
    claim, warning = words.headline(at)
    return template.render(
        style=style,
        claim=claim,
        warning=warning,
        believe=reasons.reasons_for(run, at),
        doubt=reasons.reasons_against(run, at),
        same_curves=reasons.same_curves(rows),
        at=at,
        units=UNITS,
        metrics=in_order(rows["metric"].tolist()),
        at_level=_records(cells(rows, units=at.units, sparsity=at.sparsity)),
        all_rows=_records(rows),
        panels=panels,
        leaking={units: of_units for units, of_units in panels.items() if "leak" in of_units},
        has_spread=bool(np.isfinite(rows["agreement_low"]).any()),
        layers=pictures.layer_pictures(run.diagnostics),
        overlaps=pictures.overlap_pictures(run.diagnostics, at.sparsity),
        sampled=sampled_texts(run.samples, at),
        model=_flat(run.meta.get("model", {})),
        model_name=_model_name(run),
        prompts=int(rows["prompts"].max()),
        tokens=int(rows["tokens"].max()),
        command=str(run.meta.get("command", "")),
        questions={key: str(run.meta[key]) for key in ("prompts_source", "prompts_sha256") if key in run.meta},
        plan=_flat(run.meta.get("plan", {})),
        environment=_flat(run.meta.get("environment", {})),
        seconds=float(run.meta.get("seconds", float("nan"))),
    )


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _flat(tree: object, name: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner` -> text."""
    if not isinstance(tree, dict):
        values = ", ".join(map(str, tree)) if isinstance(tree, list) else tree
        return {name: "–" if values is None else str(values)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{name}.{key}" if name else str(key))
    return flat


def _model_name(run: Run) -> str:
    return str(run.meta.get("model", {}).get("name") or run.rows["model"].iloc[0])


def _curve_title(run: Run, at: words.Focus) -> str:
    prompts = int(run.rows["prompts"].max())
    return f"{_model_name(run)}, {prompts} question{'s' * (prompts != 1)}: what is kept with {UNITS[at.units]} off"
