"""A text whose end is measured on and nothing else, in windows of 512 tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sparseact.data import load_text
from sparseact.training.text import Source, split_text

WINDOW = 512


def held_out_text(tokenizer: Any, file: str | Path, windows: int) -> Source:
    """A text, so many windows of its end held out."""
    ids = tokenizer(load_text(file), add_special_tokens=False, verbose=False)["input_ids"]
    whole = split_text(Path(file).stem, ids, window=WINDOW, bos=tokenizer.bos_token_id)
    return replace(whole, held_out=whole.held_out[:windows])
