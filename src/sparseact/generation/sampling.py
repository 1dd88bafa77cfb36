"""How the next token is chosen from the logits."""

from __future__ import annotations

from dataclasses import dataclass

from sparseact.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits. Applied in the order of the attributes, as transformers does.

    Attributes:
        repetition_penalty: logits of tokens that the text has, prompt included, are divided by it if positive,
            else multiplied (Keskar et al. 2019, arXiv 1909.05858); 1 leaves them.
        temperature: 0 takes the most likely token, of equal ones the first; else logits are divided by it and a
            token is drawn.
        top_k: draw among so many of the most likely tokens; 0 among all.
        top_p: draw among the fewest most likely tokens that hold this share of the probability (Holtzman et al.
            2020, arXiv 1904.09751).
        min_p: draw among the tokens that are at least this much as likely as the most likely one (Nguyen et al.
            2024, arXiv 2407.01082).
        seed: of the drawing.
    """

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            InputError: names the option.
        """
        penalty, temperature = self.repetition_penalty, self.temperature
        _check("repetition_penalty", penalty, "between 0.01 and 100", valid=0.01 <= penalty <= 100)
        _check(
            "temperature",
            temperature,
            "0 or between 1e-6 and 1e6",
            valid=temperature == 0 or 1e-6 <= temperature <= 1e6,
        )
        _check("top_k", self.top_k, "0 or more", valid=self.top_k >= 0)
        _check("top_p", self.top_p, "above 0 and at most 1", valid=0 < self.top_p <= 1)
        _check("min_p", self.min_p, "between 0 and 1", valid=0 <= self.min_p <= 1)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken as the model has it."""
        return not self.draws and self.repetition_penalty == 1

    @property
    def draws(self) -> bool:
        """Whether chance has a say."""
        return self.temperature > 0


def _check(option: str, value: float, wanted: str, *, valid: bool) -> None:
    if not valid:
        raise InputError(f"{option}: {value} is not {wanted}")
