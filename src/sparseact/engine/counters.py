"""What the tokens that were run one by one have read of the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparseact.engine.forward.gating import MADE_BY, Gating
from sparseact.engine.forward.model import Model
from sparseact.engine.forward.state import BY_ROUTER
from sparseact.engine.lm_head.fit import SCREEN
from sparseact.engine.load.load_model import linear_names
from sparseact.engine.quant.arena import INPUTS, LAYOUT, OUTPUTS, PADDED_OUTPUTS, SELECTOR
from sparseact.engine.quant.layouts import COLUMNS, PANEL, PANELS, PLANES, ROWS
from sparseact.models.architecture import Architecture
from sparseact.recipes.selection import EVERYTHING


@dataclass
class Usage:
    """Counts since the last reset. For the methods see those of `Engine`.

    Attributes:
        architecture: of the model.
        model: its weights.
        gatings: of the recipe.
        counts: [threads, linears], units that were on; the step adds to them.
        tokens: that were run.
        sparse: of these, the tokens that the recipe's masks held for.
        screened: of these, the tokens whose head was screened.
    """

    architecture: Architecture
    model: Model
    gatings: Mapping[str, Gating]
    counts: npt.NDArray[np.int64]
    tokens: int = 0
    sparse: int = 0
    screened: int = 0

    def reset(self) -> None:
        """Count anew."""
        self.tokens = self.sparse = self.screened = 0
        self.counts[:] = 0

    def add_token(self, *, dense: bool, screened: bool) -> None:
        """A token was run."""
        self.tokens += 1
        self.sparse += not dense
        self.screened += screened

    def add_drafts(self, tokens: int) -> None:
        """Tokens were drafted: all of them sparse, none with a screened head."""
        self.tokens += tokens
        self.sparse += tokens

    def density(self) -> dict[str, float]:
        """Share of the units that were on, for each linear, by canonical name."""
        counts, table = self.counts.sum(axis=0), self.model.arena.table
        found = {}
        for name in linear_names(self.architecture, self.model.numbers):
            i = self.model.numbers[name]
            if not self.tokens:
                found[name] = 1.0
            elif not self._is_masked(name):
                found[name] = 1 - self._left_out(name) * self.sparse / self.tokens
            else:
                rows = table[i, LAYOUT] == ROWS or self._is_routed(name)
                units = table[i, OUTPUTS if rows else INPUTS]
                found[name] = float(counts[i] / (self.tokens * units))
        if not self.architecture.tied:
            del found["embed"]  # of which a token reads one row
        return found | self._density_of_screen()

    def bytes_per_token(self) -> float:
        """Bytes of weights that a token read on average, scales included."""
        sparse = self.sparse / max(1, self.tokens)
        arena, density = self.model.arena, self.density()
        total = self._bytes_of_screen_vector(density)
        for name, share in density.items():
            i = self.model.numbers[name]
            size, codes = arena.bytes_of(i), arena.linears[i].shape.codes
            if f"{name}.chosen" in self.model.numbers:  # of which sparse tokens read the copy instead
                total += (1 - sparse) * size
            elif arena.table[i, LAYOUT] == COLUMNS:  # the scales of a block of inputs serve all its columns
                total += share * codes + size - codes
            else:
                total += size if arena.table[i, SELECTOR] != EVERYTHING else share * size
        # Copies for some of the neurons and heads, and predictors.
        added = (i for name, i in self.model.numbers.items() if name.count(".") > 1)
        return total + sparse * sum(arena.bytes_of(i) for i in added)

    def head_bytes_per_token(self) -> float:
        """The part of `bytes_per_token` that is the head of the model, and its screen."""
        arena, numbers, density = self.model.arena, self.model.numbers, self.density()
        names = [name for name in (self.architecture.head, *SCREEN) if name in density]
        return self._bytes_of_screen_vector(density) + sum(
            density[name] * arena.bytes_of(numbers[name]) for name in names
        )

    def gated_bytes(self) -> dict[str, int]:
        """Bytes of each linear of whose inputs or rows the recipe switches some off, by canonical name."""
        arena, numbers = self.model.arena, self.model.numbers
        gated = [name for name in numbers if self._is_masked(name) or self._left_out(name)]
        return {name: arena.bytes_of(numbers[name]) for name in gated}

    def achieved(self) -> float:
        """Share of the gated weight bytes that were not read; 0 if none are gated."""
        return 1 - self._density_by(lambda linear: "all").get("all", 1.0)

    def density_by_layer(self) -> dict[str, float]:
        """Share of the gated weight bytes that were read, by the layer's number or "head"."""
        return self._density_by(lambda linear: linear.partition(".")[0] if "." in linear else "head")

    def _density_by(self, group: Callable[[str], str]) -> dict[str, float]:
        gated: dict[str, float] = defaultdict(float)
        read: dict[str, float] = defaultdict(float)
        density = self.density()
        for linear, size in self.gated_bytes().items():
            gated[group(linear)] += size
            read[group(linear)] += size * density[linear]
        return {name: read[name] / size for name, size in gated.items()}

    def _is_masked(self, name: str) -> bool:
        row = self.model.arena.table[self.model.numbers[name]]
        # Of planes, the high one is always read, and the low one is a part of the columns that it lies in.
        return bool(row[SELECTOR] != EVERYTHING or row[LAYOUT] not in (PANELS, PLANES)) or self._is_routed(name)

    def _is_routed(self, name: str) -> bool:
        """Whether only the panels of some blocks of neurons are read."""
        layer, _, part = name.partition(".")
        gating = self.gatings.get(f"{layer}.down")
        return part in MADE_BY["down"] and gating is not None and gating.choice == BY_ROUTER

    def _left_out(self, name: str) -> float:
        """Share of a linear in panels that the prompt's choice leaves out."""
        if f"{name}.chosen" not in self.model.numbers:
            return 0.0
        layer, _, part = name.partition(".")
        reader = next(reader for reader, makers in MADE_BY.items() if part in {reader, *makers})
        selection = self.gatings[f"{layer}.{reader}"].selection
        return 1 - selection.keep / selection.group

    def _density_of_screen(self) -> dict[str, float]:
        """Of the screen and its head."""
        if SCREEN[0] not in self.model.numbers:
            return {}
        tokens, head = max(self.tokens, 1), self.model.numbers[self.architecture.head]
        screened = self.screened / tokens
        panels = int(self.model.arena.table[head, PADDED_OUTPUTS]) // PANEL * tokens
        computed = float(self.counts[:, head].sum()) / panels
        return dict.fromkeys(SCREEN, screened) | {self.architecture.head: 1 - screened + computed}

    def _bytes_of_screen_vector(self, density: Mapping[str, float]) -> float:
        return 4 * self.architecture.vocabulary * density.get(SCREEN[0], 0.0)
