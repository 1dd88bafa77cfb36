"""The paper's experiment: quality against sparsity, per metric."""

from typing import TYPE_CHECKING

from sparseact.utils.lazy import on_first_use

if TYPE_CHECKING:
    from sparseact.sweep.plan import Cell as Cell
    from sparseact.sweep.plan import Plan as Plan
    from sparseact.sweep.prompt import evaluate_prompt as evaluate_prompt
    from sparseact.sweep.run import run_sweep as run_sweep
    from sparseact.sweep.table import tabulate as tabulate

# The plan is read without torch, by the command line's help; the schema by reports.
__getattr__ = on_first_use(
    __name__,
    {"plan": ("Cell", "Plan"), "prompt": ("evaluate_prompt",), "run": ("run_sweep",), "table": ("tabulate",)},
)
