"""Run a sweep prompt by prompt; what is done is on disk after each, and is not done again."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparseact.data import check_context, encode_prompt
from sparseact.errors import InputError, require
from sparseact.masked.decoding import evaluation_mode
from sparseact.sweep.folder import SweepFolder
from sparseact.sweep.plan import Plan
from sparseact.sweep.prompt import evaluate_prompt
from sparseact.sweep.schema import VERSION
from sparseact.utils import environment

if TYPE_CHECKING:
    import pandas as pd


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
    require("sweep", "pandas", "pyarrow")
    import pandas as pd

    if not prompts:
        raise InputError("prompts: there is no prompt")
    ids = [encode_prompt(tokenizer, prompt, chat=plan.chat).to(model.device) for prompt in prompts]
    for index, row in enumerate(ids):
        check_context(model.config, row.shape[1], plan.max_new_tokens, index)
    meta = {
        "version": VERSION,
        "command": command,
        "model": model_info or {"name": type(model).__name__},
        "plan": plan.as_json(),
        "prompts_source": prompts_source,
        "prompts_sha256": hashlib.sha256("\0".join(prompts).encode()).hexdigest(),
        "prompts": len(prompts),
        "environment": environment.describe(model.device),
    }
    folder = SweepFolder(Path(out), meta)
    done, cells = folder.done, len(plan.cells())
    started = time.monotonic() - folder.meta.get("seconds", 0.0)
    bar = tqdm(
        total=len(prompts) * cells,
        initial=len(done) * cells,
        unit="cell",
        desc="sweep",
        file=sys.stderr,
        disable=not progress if progress is not None else None,
    )
    try:
        with evaluation_mode(model), bar:
            for index in (index for index in range(len(ids)) if index not in done):
                found = evaluate_prompt(model, tokenizer, plan, ids[index], index, after_cells=bar.update)
                samples = [{"question": prompts[index], **sample} for sample in found.samples]
                folder.add(index, samples, found.diagnostics, time.monotonic() - started)
    except KeyboardInterrupt as stop:
        stop.add_note(f"what is done is kept in {out}, and the same command goes on from there")
        raise
    finally:
        folder.write_rest()
    return pd.read_csv(folder.path / "sweep.csv")
