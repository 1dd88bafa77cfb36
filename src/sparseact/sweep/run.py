"""Run a sweep prompt by prompt; what is done is on disk after each, and is not done again."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.data import check_context, encode_prompt
from sparseact.errors import InputError, MissingExtraError
from sparseact.masked.decoding import evaluation_mode
from sparseact.sweep.plan import Plan
from sparseact.sweep.prompt import Row, evaluate_prompt
from sparseact.utils import environment
from sparseact.utils.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
IDENTITY = ("version", "model", "plan", "prompts_sha256")
"""Keys of meta.json in which a resumed run must equal the one in the folder."""

COLUMNS = [
    *("model", "metric", "units", "sparsity", "achieved", "agreement", "nll", "nll_dense", "kl"),
    *("bleu", "exact", "leak", "prompts", "tokens"),
]


def run_sweep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: Plan,
    prompts: Sequence[str],
    out: str | Path,
    *,
    model_info: dict[str, Any] | None = None,
    prompts_source: str = "",
    command: str = "",
    progress: bool | None = None,
) -> pd.DataFrame:
    """Evaluate `plan` on `prompts` and write sweep.csv, samples.parquet, diagnostics.parquet, meta.json.

    Interrupt it at any time: the same call goes on with the first prompt that is not done.

    Args:
        out: a new folder, or that of the same sweep.
        model_info: what meta.json says of the model; its "name" fills sweep.csv's first column.
        prompts_source: where the prompts came from, for meta.json.
        command: the command line, for meta.json.
        progress: show a bar on standard error; on a terminal if None.

    Returns:
        The table of sweep.csv.

    Raises:
        InputError: `out` holds another run, a prompt does not fit the context, no prompts.
        MissingExtraError: pandas or pyarrow is not installed.
    """
    pd = _pandas()
    out = Path(out)
    if not prompts:
        raise InputError("prompts: there is no prompt")
    ids = [encode_prompt(tokenizer, prompt, chat=plan.chat).to(model.device) for prompt in prompts]
    for index, row in enumerate(ids):
        check_context(model.config, row.shape[1], plan.max_new_tokens, index)

    model_info = model_info or {"name": type(model).__name__}
    meta = {
        "version": VERSION,
        "command": command,
        "model": model_info,
        "plan": plan.as_json(),
        "prompts_source": prompts_source,
        "prompts_sha256": hashlib.sha256("\0".join(prompts).encode()).hexdigest(),
        "prompts": len(prompts),
        "environment": environment.describe(model.device),
    }
    samples, diagnostics, seconds = _resume(out, meta)
    done = {row["prompt"] for row in samples}
    started = time.monotonic() - seconds
    cells = len(plan.cells())
    with (
        evaluation_mode(model),
        tqdm(
            total=len(prompts) * cells,
            initial=len(done) * cells,
            unit="cell",
            desc="sweep",
            file=sys.stderr,
            disable=not progress if progress is not None else None,
        ) as bar,
    ):
        for index, row in enumerate(ids):
            if index in done:
                continue
            result = evaluate_prompt(model, tokenizer, plan, row, index, after_cells=bar.update)
            samples += [{"question": prompts[index], **sample} for sample in result.samples]
            diagnostics += result.diagnostics
            meta["seconds"] = round(time.monotonic() - started, 1)
            meta["prompts_done"] = index + 1
            _write(out, meta, samples, diagnostics)
    return pd.read_csv(out / "sweep.csv")


def _pandas() -> Any:
    try:
        import pandas as pd
        import pyarrow as pa  # noqa: F401 - what pandas writes parquet with
    except ImportError as error:
        raise MissingExtraError(str(error.name), "sweep") from error
    return pd


def _resume(out: Path, meta: dict[str, Any]) -> tuple[list[Row], list[Row], float]:
    """Rows of the prompts that are done and the seconds they took; nothing in a new folder."""
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {out}: this is a file, not a folder")
    if not (out / "meta.json").exists():
        if (out / "sweep.csv").exists():
            raise InputError(f"out: {out}: holds a sweep.csv without its meta.json; choose another folder")
        return [], [], 0.0
    pd = _pandas()
    try:
        before = json.loads((out / "meta.json").read_text())
        differing = [key for key in IDENTITY if before[key] != json.loads(json.dumps(meta[key]))]
        samples = pd.read_parquet(out / "samples.parquet").to_dict("records")
        diagnostics = pd.read_parquet(out / "diagnostics.parquet").to_dict("records")
    except Exception as error:  # a damaged file raises what its reader likes
        raise InputError(f"out: {out}: holds a run that can't be read ({error}); choose another folder") from error
    if differing:
        raise InputError(
            f"out: {out}: holds another run ({_difference(before, meta, differing)}); choose another folder"
        )
    done = {row["prompt"] for row in samples}
    return samples, [row for row in diagnostics if row["prompt"] in done], float(before.get("seconds", 0))


def _difference(before: dict[str, Any], now: dict[str, Any], keys: Sequence[str]) -> str:
    if "plan" in keys:
        old, new = before["plan"], now["plan"]
        options = [key for key in new if old.get(key) != json.loads(json.dumps(new[key]))]
        return "; ".join(f"{key.replace('_', '-')} {old.get(key)} there, {new[key]} here" for key in options)
    if "model" in keys:
        return f"model {before['model'].get('name')} there, {now['model'].get('name')} here, or other weights"
    return "other prompts" if "prompts_sha256" in keys else "of another version of sparseact"


def _write(out: Path, meta: dict[str, Any], samples: list[Row], diagnostics: list[Row]) -> None:
    """Write all files, samples.parquet last but for the tables made from it: it says what is done."""
    pd = _pandas()
    with write_atomically(out / "meta.json") as path:
        path.write_text(json.dumps(meta, indent=2) + "\n")
    with write_atomically(out / "diagnostics.parquet") as path:
        pd.DataFrame(diagnostics).to_parquet(path, index=False)
    frame = pd.DataFrame(samples)
    with write_atomically(out / "samples.parquet") as path:
        frame.to_parquet(path, index=False)
    with write_atomically(out / "sweep.csv") as path:
        tabulate(frame, meta["model"]["name"]).to_csv(path, index=False, float_format="%.6g")


def tabulate(samples: pd.DataFrame, model: str) -> pd.DataFrame:
    """The table of sweep.csv: means over tokens, of BLEU and exact over prompts."""
    keys = ["metric", "units", "sparsity"]
    weighted = ["achieved", "agreement", "nll", "nll_dense", "kl", "leak"]
    frame = samples.copy()
    frame[weighted] = frame[weighted].mul(frame["tokens"], axis=0)
    groups = frame.groupby(keys, sort=False)
    table = groups[weighted].sum().div(groups["tokens"].sum(), axis=0)
    table = table.assign(
        bleu=groups["bleu"].mean(),
        exact=groups["exact"].mean(),
        prompts=groups["prompt"].nunique(),
        tokens=groups["tokens"].sum(),
        model=model,
    )
    return table.reset_index()[COLUMNS]
