"""Run-time rules: what runs without a label."""

from sparseact.generation import Generated
from sparseact.policies.cats import CATS
from sparseact.policies.cett import CETT
from sparseact.policies.chess import CHESS
from sparseact.policies.countdown import Countdown
from sparseact.policies.deja_vu import DejaVu
from sparseact.policies.first_look import FirstLook
from sparseact.policies.gate import Gate, Signal
from sparseact.policies.generation import generate_text
from sparseact.policies.griffin import Griffin
from sparseact.policies.larosa import LaRoSA
from sparseact.policies.max_sparsity import max_sparsity
from sparseact.policies.n_of_m import NOfM
from sparseact.policies.named import known_policies, make_policy, read_options, summary
from sparseact.policies.own_text import write_text
from sparseact.policies.phases import Phases
from sparseact.policies.policy import Budget, Policy
from sparseact.policies.r_sparse import RSparse
from sparseact.policies.recipe import Recipe, load_recipe
from sparseact.policies.scap import SCAP
from sparseact.policies.sparseact import SparseAct
from sparseact.policies.statistical_top_k import StatisticalTopK
from sparseact.policies.teal import TEAL
from sparseact.policies.top_k import TopKNeurons
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
        CATS,
        CHESS,
        Countdown,
        TopKNeurons,
        CETT,
        Griffin,
        DejaVu,
        FirstLook,
    )
}
"""The built-in policies by name."""

__all__ = [
    "CATS",
    "CETT",
    "CHESS",
    "POLICIES",
    "SCAP",
    "TEAL",
    "WINA",
    "Budget",
    "Countdown",
    "DejaVu",
    "FirstLook",
    "Gate",
    "Generated",
    "Griffin",
    "LaRoSA",
    "NOfM",
    "Phases",
    "Policy",
    "RSparse",
    "Recipe",
    "Signal",
    "SparseAct",
    "StatisticalTopK",
    "TopKNeurons",
    "TopP",
    "generate_text",
    "known_policies",
    "load_recipe",
    "make_policy",
    "max_sparsity",
    "read_options",
    "summary",
    "write_text",
]
