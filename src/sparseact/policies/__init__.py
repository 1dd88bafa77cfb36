"""Run-time rules: what runs without a label."""

from sparseact.policies.gate import Gate, Signal
from sparseact.policies.phases import Phases
from sparseact.policies.policy import Budget, Policy
from sparseact.policies.recipe import Recipe, load_recipe
from sparseact.policies.sparseact import SparseAct
from sparseact.policies.teal import TEAL
from sparseact.policies.wina import WINA

POLICIES = {policy.name: policy for policy in (SparseAct, TEAL, WINA)}
"""The built-in policies by name."""

__all__ = [
    "POLICIES",
    "TEAL",
    "WINA",
    "Budget",
    "Gate",
    "Phases",
    "Policy",
    "Recipe",
    "Signal",
    "SparseAct",
    "load_recipe",
]
