"""What a rule is worth in time on this machine: the engine, dense and sparse in turn, on random weights of the shape.

Time does not depend on the values of the weights, so nothing is packed or kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparseact.bench.random_weights import check_memory, random_weights
from sparseact.bench.rates import Spread, is_disturbed
from sparseact.bench.rules import rule_recipe, rules_at
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


def speeds_of(
    architecture: Architecture,
    wanted: Sequence[tuple[str, float]],
    *,
    dtype: str = "q8",
    threads: int,
    rounds: int = 3,
    progress: Callable[[], object] = lambda: None,
) -> dict[tuple[str, float], Speed]:
    """Decode with rules of `bench.rules`, one after the other, and dense, in turn.

    Args:
        architecture: the shape.
        wanted: a rule and a density each; a rule that the engine does not run at the type is left out.
        dtype: of the engine.
        threads: of it.
        rounds: how often both are timed.
        progress: is called after each.

    Raises:
        InputError: two models of this shape do not fit into memory.
    """
    check_memory(architecture, dtype, 2)
    weights = random_weights(architecture, dtype)
    context = min(architecture.context, PROMPT + 2 * TOKENS)
    found = {}
    with Engine(weights, dtype=dtype, threads=threads, context=context) as dense:
        _decode(dense)  # the first use compiles
        for rule, density in wanted:
            if rule in rules_at(dtype):
                recipe = rule_recipe(weights, rule, density, dtype=dtype)
                with Engine(weights, recipe=recipe, dtype=dtype, threads=threads, context=context) as sparse:
                    found[rule, density] = _speed(dense, sparse, threads, rounds)
            progress()
    return found


def _speed(dense: Engine, sparse: Engine, threads: int, rounds: int) -> Speed:
    _decode(sparse)  # as above
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
