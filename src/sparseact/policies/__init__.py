"""Run-time rules: what runs without a label."""

from sparseact.policies.gate import Gate, Signal
from sparseact.policies.generation import Generated, generate_text
from sparseact.policies.larosa import LaRoSA
from sparseact.policies.n_of_m import NOfM
from sparseact.policies.named import known_policies, make_policy, summary
from sparseact.policies.own_text import write_text
from sparseact.policies.phases import Phases
from sparseact.policies.policy import Budget, Policy
from sparseact.policies.r_sparse import RSparse
from sparseact.policies.recipe import Recipe, load_recipe
from sparseact.policies.scap import SCAP
from sparseact.policies.sparseact import SparseAct
from sparseact.policies.statistical_top_k import StatisticalTopK
from sparseact.policies.teal import TEAL
from sparseact.policies.top_p import TopP
from sparseact.policies.wina import WINA

POLICIES = {
    policy.name: policy
    for policy in (
        SparseAct,
        TEAL,
        WINA,
        RSparse,
        LaRoSA,
        SCAP,
        StatisticalTopK,
        TopP,
        NOfM,
    )
}
"""The built-in policies by name."""

__all__ = [
    "POLICIES",
    "SCAP",
    "TEAL",
    "WINA",
    "Budget",
    "Gate",
    "Generated",
    "LaRoSA",
    "NOfM",
    "Phases",
    "Policy",
    "RSparse",
    "Recipe",
    "Signal",
    "SparseAct",
    "StatisticalTopK",
    "TopP",
    "generate_text",
    "known_policies",
    "load_recipe",
    "make_policy",
    "summary",
    "write_text",
]
