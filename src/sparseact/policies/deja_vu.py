"""Deja Vu: score = B A x + b, a low-rank guess from the MLP's input x; the highest neurons of each token are read.

Liu et al. 2023, "Deja Vu: Contextual Sparsity for Efficient LLMs at Inference Time", arXiv 2310.17157:
sigmoid(B A x), trained to tell which neurons are on. Theirs learns by gradient descent which neurons of a
ReLU are not 0; here the target is how important each neuron is, as a share of the token's mean, which
loses less of what matters than telling the most important ones from the rest. The fit is a reduced-rank ridge
regression in closed form, and it reads its own layer's input, not the one of the layer before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates
from sparseact.calibration.neurons import find_neurons
from sparseact.calibration.sample import Sample
from sparseact.calibration.weights import column_norms
from sparseact.errors import InputError, unknown_name
from sparseact.masked.gate import predict
from sparseact.masked.selectors import mask, topk_mask
from sparseact.recipes.gate import Gate, Signal
from sparseact.recipes.phases import Phases
from sparseact.recipes.recipe import Recipe
from sparseact.recipes.selectors import TopK
from sparseact.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TARGETS = ("activation", "attribution")
RIDGE = 1.0
"""Of the ridge regression, as a share of the inputs' mean square: on the quarter of the text that is not fitted
to, recall is best from .3 to 3, whatever the rank, the target, the sparsity and the text (SmolLM2)."""


@dataclass(frozen=True)
class DejaVu:
    """Keep the neurons of every MLP that a predictor ranks highest for the token.

    The recipe's meta has `recall`: the share of the neurons that the target ranks highest and the
    predictor keeps too, on the quarter of the calibration tokens that it was not fitted on; by site, and
    their mean.

    Attributes:
        sparsity: share of the neurons, whose rows of gate and up and columns of down are not read for a token.
        rank: of the predictor, as a share of the number of inputs. Its bytes are read for every token.
        target: what makes a neuron important: `activation`, |h_i| * ||W_down,i||; `attribution`,
            |g_i h_i| with the gradient of labels that the model draws itself.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "deja-vu"
    sparsity: float
    rank: float = 0.125
    target: Literal["activation", "attribution"] = "activation"
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Recipe:
        """Fit the predictors on the text."""
        if self.target not in TARGETS:
            raise unknown_name("target: unknown target", self.target, TARGETS)
        if not 0 < self.rank <= 1:
            raise InputError(f"rank: {self.rank} is not above 0 and at most 1")
        neurons = {part.site: part for part in find_neurons(model)}
        recall: dict[str, float] = {}

        def gate(site: Site, sample: Sample) -> Gate:
            inputs = neurons[site].inputs
            x, h = sample.x[inputs], sample.x[site]
            importance = h * (sample.gradient[site] if self.target == "attribution" else column_norms(model, site))
            rank = max(1, round(self.rank * inputs.units))
            read = model.dtype.itemsize * (rank * (inputs.units + site.units) + site.units)
            level = min(1.0, self.sparsity + read / (site.units * site.unit_bytes))  # net of the predictor
            oracle = topk_mask(importance.abs(), level)
            share = importance.abs() / importance.abs().mean(dim=1, keepdim=True).clamp(min=1e-12)
            fit = len(x) * 3 // 4
            signal = Signal("predicted", inputs.module, activation="sigmoid")  # scores are positive; it keeps the order
            predictor = reduced_rank_regression(x[:fit], share[:fit], rank)
            found = Gate(site, TopK(level), signal, predictor=predictor)
            kept = mask(found.selector, found.score(predict(found, x[fit:])))
            recall[site.name] = recall_of(kept, oracle[fit:])
            return found

        recipe = calibrate_gates(
            self,
            model,
            tokenizer,
            text,
            list(neurons),
            gate,
            uniform,
            reads=[part.inputs for part in neurons.values()],
            gradient=self.target == "attribution",
        )
        mean = sum(recall.values()) / len(recall)
        return replace(recipe, meta=recipe.meta | {"recall": {"mean": mean, **recall}})


def recall_of(kept: Tensor, oracle: Tensor) -> float:
    """Share of the oracle's units that are kept, over all tokens; 1 if the oracle keeps none."""
    return float((kept & oracle).sum() / oracle.sum()) if oracle.any() else 1.0


def reduced_rank_regression(x: Tensor, y: Tensor, rank: int, ridge: float = RIDGE) -> tuple[Tensor, Tensor, Tensor]:
    """The best ridge regression y = B A x + b of a rank.

    With L L^T = X^T X + damping and M = L^-1 X^T Y (X, Y centred), the full solution is L^-T M; keeping
    the leading left singular vectors U of M gives A = U^T L^-1 and B = M^T U.

    Args:
        x: [tokens, inputs].
        y: [tokens, units].
        rank: at most inputs are used.
        ridge: as a share of the inputs' mean square.

    Returns:
        A [rank, inputs], B [units, rank], b [units], float32.
    """
    x, y = x.double(), y.double()
    centre, mean = x.mean(dim=0), y.mean(dim=0)
    x, y = x - centre, y - mean
    gram = x.mT @ x
    damping = ridge * gram.diagonal().mean().clamp(min=1e-12)
    root = torch.linalg.cholesky(gram + damping * torch.eye(len(gram), dtype=gram.dtype))
    M = torch.linalg.solve_triangular(root, x.mT @ y, upper=False)
    U = torch.linalg.eigh(M @ M.mT).eigenvectors[:, -rank:]
    A = torch.linalg.solve_triangular(root.mT, U, upper=True).mT
    B = M.mT @ U
    return A.float(), B.float(), (mean - B @ (A @ centre)).float()
