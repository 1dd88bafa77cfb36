"""Run-time rules, which need no label: one file each."""

from sparseact.calibration.budgets import Budget
from sparseact.calibration.own_answers import write_text
from sparseact.calibration.policy import Calibration, GatePolicy, Policy
from sparseact.calibration.search import max_sparsity
from sparseact.policies.block_router import BlockRouter
from sparseact.policies.cats import CATS
from sparseact.policies.cett import CETT
from sparseact.policies.chess import CHESS
from sparseact.policies.countdown import Countdown
from sparseact.policies.deja_vu import DejaVu
from sparseact.policies.first_look import FirstLook
from sparseact.policies.griffin import Griffin
from sparseact.policies.larosa import LaRoSA
from sparseact.policies.leading_bits import LeadingBits
from sparseact.policies.n_of_m import NOfM
from sparseact.policies.r_sparse import RSparse
from sparseact.policies.registry import POLICIES, known_policies, make_policy, read_options, summary
from sparseact.policies.scap import SCAP
from sparseact.policies.sparseact import SparseAct
from sparseact.policies.static import Static
from sparseact.policies.statistical_top_k import StatisticalTopK
from sparseact.policies.teal import TEAL
from sparseact.policies.top_k import TopKNeurons
from sparseact.policies.top_p import TopP
from sparseact.policies.wina import WINA
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe, load_recipe

__all__ = [
    "CATS",
    "CETT",
    "CHESS",
    "POLICIES",
    "SCAP",
    "TEAL",
    "WINA",
    "BlockRouter",
    "Budget",
    "Calibration",
    "Countdown",
    "DejaVu",
    "FirstLook",
    "Gate",
    "GatePolicy",
    "Griffin",
    "LaRoSA",
    "LeadingBits",
    "NOfM",
    "Phases",
    "Policy",
    "RSparse",
    "Recipe",
    "Signal",
    "SparseAct",
    "Static",
    "StatisticalTopK",
    "TopKNeurons",
    "TopP",
    "known_policies",
    "load_recipe",
    "make_policy",
    "max_sparsity",
    "read_options",
    "summary",
    "write_text",
]
