"""Ridge regression in closed form, of full rank or a lower one."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1.0
"""Of the ridge regression, as a share of the inputs' mean square: on the quarter of the text that is not fitted
to, recall is best from .3 to 3, whatever the rank, the target, the sparsity and the text (SmolLM2)."""


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
