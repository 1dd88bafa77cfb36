"""What a rule is worth in time on this machine: the engine, dense and sparse in turn, on random weights of the shape.

Time does not depend on the values of the weights, so nothing is packed or kept for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparseact.bench.random_weights import check_memory, random_weights
from sparseact.bench.rates import Spread, is_disturbed
from sparseact.bench.rules import rule_recipe
from sparseact.bench.runner import Times
from sparseact.bench.worker import timed
from sparseact.engine.engine import Engine
from sparseact.models.architecture import Architecture

PROMPT, TOKENS = 8, 24


@dataclass(frozen=True)
class Speed:
    """A rule against the dense engine.

    Attributes:
        ratio: tokens per second over those of the dense engine in the same round.
        bytes: of weights read for a token, and `bytes_dense` by the dense engine.
        dense: tokens per second of the dense engine.
        disturbed: whether other programs wanted the processors meanwhile.
    """

    ratio: Spread
    bytes: float
    bytes_dense: float
    dense: Spread
    disturbed: bool


def speed_of(
    architecture: Architecture, rule: str, density: float, *, dtype: str = "q8", threads: int, rounds: int = 3
) -> Speed:
    """Decode with a rule of `bench.rules` at a density and without, in turn.

    Raises:
        InputError: two models of this shape do not fit into memory.
    """
    check_memory(architecture, dtype, 2)
    weights = random_weights(architecture, dtype)
    recipe = rule_recipe(weights, rule, density, dtype=dtype)
    context = min(architecture.context, PROMPT + 2 * TOKENS)
    with (
        Engine(weights, dtype=dtype, threads=threads, context=context) as dense,
        Engine(weights, recipe=recipe, dtype=dtype, threads=threads, context=context) as sparse,
    ):
        _decode(dense), _decode(sparse)  # the first use compiles
        pairs = [(_decode(dense), _decode(sparse)) for _ in range(rounds)]
        return Speed(
            Spread.of([slow.wall / fast.wall for slow, fast in pairs]),
            sparse.bytes_per_token(),
            dense.bytes_per_token(),
            Spread.of([TOKENS / slow.wall for slow, _ in pairs]),
            any(is_disturbed(times, threads) for pair in pairs for times in pair),
        )


def _decode(engine: Engine) -> Times:
    engine.reset()
    engine.prefill(range(PROMPT))
    engine.greedy(2)  # the first token after a prompt may be dense
    return Times(**timed(lambda: engine.greedy(TOKENS))[1])
