"""A policy of one's own: keep the largest inputs of each token, in every linear.

In a package, two lines of pyproject.toml make it a name for `sparseact calibrate --policy largest-inputs`:

    [project.entry-points."sparseact.policies"]
    largest-inputs = "add_a_policy:LargestInputs"
"""

import argparse
from dataclasses import dataclass, field
from typing import Any, ClassVar

import sparseact as sa
from sparseact.calibration.budgets import uniform
from sparseact.calibration.fit import calibrate_gates
from sparseact.policies import Gate, Phases, Recipe
from sparseact.recipes.selectors import TopK
from sparseact.sites import find_channels
from sparseact.testing import check_policy


@dataclass(frozen=True)
class LargestInputs:
    """Keep the largest inputs of each token.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
        phases: which tokens stay dense.
    """

    name: ClassVar[str] = "largest-inputs"
    sparsity: float
    phases: Phases = field(default_factory=Phases)

    def calibrate(self, model: Any, tokenizer: Any, text: str) -> Recipe:
        """A gate for each linear: what it reads, and how many of it are kept; the budget sets the levels."""
        sites = find_channels(model)
        return calibrate_gates(self, model, tokenizer, text, sites, lambda site, _: Gate(site, TopK(0.0)), uniform)


def main() -> None:
    """Check the policy against the contract that the built-in ones keep, and use it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2", help="a built-in name, a folder, a GGUF file or a hub id")
    options.add_argument("--sparsity", type=float, default=0.25)
    asked = options.parse_args()

    check_policy(LargestInputs(sparsity=0.5))
    model, tokenizer = sa.load(asked.model)
    text = "\n".join(question["question"] for question in sa.data.builtin_questions())
    recipe = LargestInputs(asked.sparsity).calibrate(model, tokenizer, text)
    print(sa.evaluation.evaluate(model, tokenizer, text, recipe=recipe).as_text())


if __name__ == "__main__":
    main()
