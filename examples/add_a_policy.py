"""A policy of one's own: keep the largest inputs of each token, in every linear.

In a package, two lines of pyproject.toml make it a name for `sparseact calibrate --policy largest-inputs`:

    [project.entry-points."sparseact.policies"]
    largest-inputs = "add_a_policy:LargestInputs"
"""

import argparse
from dataclasses import dataclass
from typing import Any

import sparseact as sa
from sparseact.policies import Gate, GatePolicy
from sparseact.recipes.selectors import TopK
from sparseact.sites import find_channels
from sparseact.testing import check_policy


@dataclass(frozen=True)
class LargestInputs(GatePolicy):
    """Keep the largest inputs of each token.

    Attributes:
        sparsity: share of all linear weights of the blocks that is not read for a token.
    """

    name = "largest-inputs"

    def gates(self, model: Any) -> list[Gate]:
        """A gate for each linear: what it reads, and how many of it are kept. The levels are the same everywhere."""
        return [Gate(site, TopK(0.0)) for site in find_channels(model)]


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
