"""Many texts by one process, on both backends in turn: memory stays flat, and the same prompt gets the same text."""

from __future__ import annotations

import os
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from faults.child import DONE, fork
from faults.table import Row

PROMPTS, TOKENS = 7, 6
HOURS = 4 * 3600.0
FLAT = 4 << 20
"""Bytes by which memory may grow from the first fifth of the texts to the last."""


def texts(place: Path, count: int) -> Row:
    """Generate them."""
    row = Row("texts by one process, memory flat")
    for backend in ("engine", "torch"):
        ended = fork(partial(_write, place / "originals", backend, count // 2), place / backend, limit=HOURS).wait()
        if fault := ended.fault(DONE):
            row.add(f"{backend}: {fault}", ended.seconds)
            continue
        row.tried += count // 2
        row.seconds += ended.seconds
        memory, other = np.array(ended.result["memory"]), ended.result["other"]
        fifth = max(1, len(memory) // 5)
        growth = int(np.median(memory[-fifth:]) - np.median(memory[fifth : 2 * fifth]))
        row.detail[f"{backend}: growth in KiB"] = growth >> 10
        faults = [f"{backend}: memory grew by {growth >> 10} KiB"] if growth > FLAT else []
        faults += [f"{backend}: text {number} is another than before for the same prompt" for number in other]
        row.wrong += len(faults)
        row.said += faults
    return row


def _write(originals: Path, backend: str, count: int) -> dict[str, list[int]]:
    """Bytes in use after each text, and the numbers of texts that are another than the first for their prompt."""
    import sparseact as sa
    from sparseact.data import builtin_questions
    from sparseact.models import load, load_tokenizer

    prompts = [row["question"][:20] for row in builtin_questions()[:PROMPTS]]
    recipe = sa.load_recipe(originals / "recipe")
    folder = str(originals / "model")
    if backend == "engine":
        model = sa.Engine.from_model(folder, recipe=recipe, dtype="f32", threads=1)
        options = {"tokenizer": load_tokenizer(folder)[0], "max_new_tokens": TOKENS}
    else:
        model, tokenizer = load(folder, device="cpu")
        options = {"tokenizer": tokenizer, "max_new_tokens": TOKENS, "recipe": recipe}
    first: dict[str, str] = {}
    memory, other = [], []
    page = os.sysconf("SC_PAGESIZE")
    for number, prompt in zip(range(count), cycle(prompts), strict=False):
        text = sa.generate(model, prompt=prompt, **options).text
        if first.setdefault(prompt, text) != text:
            other.append(number)
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
    return {"memory": memory, "other": other}
