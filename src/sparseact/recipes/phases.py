"""Which tokens a policy leaves dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Phases:
    """Which tokens a policy leaves dense.

    Attributes:
        prefill: whether several tokens at once are sparse too; a teacher-forced pass counts as prefill.
        dense_first: positions at the start of each text that stay dense. The first one is an
            attention sink: its activations are huge and every later token reads it.
    """

    prefill: bool = True
    dense_first: int = 1
