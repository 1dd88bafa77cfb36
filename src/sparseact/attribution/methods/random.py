"""Random: s ~ U(0, 1), the control that every metric must beat."""

from sparseact.attribution.base import Metric, Units, UnitScores


class Random(Metric):
    """Uniform scores from a generator of its own, so that the same seed gives the same masks."""

    name, title = "random", "random"
    reads = "none"
    place = 90
    colour, marker = "#808080", "s"

    def __init__(self, seed: int = 0) -> None:
        import torch

        self._generator = torch.Generator().manual_seed(seed)

    def score(self, x: Units, gradient: Units) -> UnitScores:
        """Uniform in [0, 1), whatever the outputs are."""
        import torch

        return torch.rand(x.shape[:-1], generator=self._generator).to(x)
