"""The paper's experiment: quality against sparsity, per metric."""

from sparseact.sweep.plan import Cell, Plan
from sparseact.sweep.prompt import evaluate_prompt
from sparseact.sweep.run import run_sweep, tabulate

__all__ = ["Cell", "Plan", "evaluate_prompt", "run_sweep", "tabulate"]
