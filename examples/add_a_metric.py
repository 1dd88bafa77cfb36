"""A metric of one's own: gradient x output, of which no unit may claim more than its size.

In a package, two lines of pyproject.toml make it a name for `sparseact sweep --metrics clipped-gxo`:

    [project.entry-points."sparseact.metrics"]
    clipped-gxo = "add_a_metric:ClippedGxO"
"""

import argparse
from dataclasses import dataclass

from torch import Tensor

import sparseact as sa
from sparseact.attribution import METRICS, Metric


@dataclass(frozen=True)
class ClippedGxO(Metric):
    """s = min(-mean_d(g x), ||x||)."""

    name = "clipped-gxo"
    title = "clipped GxO"
    reads = "own"  # the gradient of each token's own loss, so this metric is an oracle
    colour, marker = "#7a5cc0", "D"  # in reports

    def score(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Score [..., units] of outputs and gradients [..., units, size]."""
        return (-(gradient * x).mean(dim=-1)).minimum(x.norm(dim=-1))


def main() -> None:
    """Attribute a prompt by it, and say how much it keeps that another metric does not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2", help="a built-in name, a folder, a GGUF file or a hub id")
    options.add_argument("--prompt", default="Why is the sky blue?")
    options.add_argument("--max-new-tokens", type=int, default=12)
    asked = options.parse_args()

    METRICS[ClippedGxO.name] = ClippedGxO  # in a script; the entry point does it for a package
    model, tokenizer = sa.load(asked.model)
    ours, theirs = (
        sa.attribute(model, tokenizer, asked.prompt, metric=name, max_new_tokens=asked.max_new_tokens)
        for name in ("clipped-gxo", "gxo")
    )
    for layer in range(len(ours.values) // 2):
        kept, beside = (sa.select.topk_mask(found[f"mlp.{layer}"], sparsity=0.8) for found in (ours, theirs))
        print(f"layer {layer}: {float((kept & beside).sum() / kept.sum()):.0%} of the neurons that gxo keeps too")


if __name__ == "__main__":
    main()
