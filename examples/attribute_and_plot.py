"""Which neurons matter for each token of an answer, by several metrics, and how far the metrics agree.

python examples/attribute_and_plot.py --model smollm2 --out runs/attribute.png
"""

import argparse

import matplotlib.pyplot as plt

import sparseact as sa

METRICS = ("corrected-gxo", "gxo", "magnitude", "random")


def main() -> None:
    """Attribute one prompt and draw where the score lies and which units two metrics keep in common."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2", help="a built-in name, a folder, a GGUF file or a hub id")
    options.add_argument("--prompt", default="Why is the sky blue?")
    options.add_argument("--max-new-tokens", type=int, default=12)
    options.add_argument("--out", default="attribute.png")
    asked = options.parse_args()

    model, tokenizer = sa.load(asked.model)
    scores = {
        metric: sa.attribute(model, tokenizer, asked.prompt, metric=metric, max_new_tokens=asked.max_new_tokens)
        for metric in METRICS
    }
    print("The model's own answer, of which each token is attributed:", tokenizer.decode(scores["gxo"].tokens))

    layers = sum(name.startswith("mlp.") for name in scores["gxo"].values)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for metric, found in scores.items():
        total = [float(found[f"mlp.{layer}"].abs().sum()) for layer in range(layers)]
        left.plot([share / sum(total) for share in total], label=metric)
        kept = [sa.select.topk_mask(found[f"mlp.{layer}"], sparsity=0.8) for layer in range(layers)]
        best = [sa.select.topk_mask(scores["corrected-gxo"][f"mlp.{layer}"], sparsity=0.8) for layer in range(layers)]
        common = [float((a & b).sum() / b.sum()) for a, b in zip(kept, best, strict=True)]
        right.plot(common, label=metric)
        print(f"{metric}: keeps {sum(common) / layers:.0%} of the neurons that corrected-gxo keeps")
    left.set(xlabel="layer", ylabel="share of the total |score|", title="where the score lies")
    right.set(xlabel="layer", ylabel="of the kept fifth", title="in common with corrected-gxo", ylim=(0, 1.02))
    left.legend(frameon=False)
    figure.savefig(asked.out)
    print(f"picture: {asked.out}")


if __name__ == "__main__":
    main()
