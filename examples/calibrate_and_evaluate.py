"""Calibrate some policies on one half of a text and measure what they lose on the other half.

python examples/calibrate_and_evaluate.py --model smollm2 --text wiki.txt --sparsity 0.4 --out runs/recipes
"""

import argparse
from pathlib import Path

import sparseact as sa

POLICIES = ("sparseact", "teal", "cats")


def main() -> None:
    """Calibrate, save, read back and measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2", help="a built-in name, a folder, a GGUF file or a hub id")
    options.add_argument("--text", type=Path, help="some pages; without one the model answers the built-in questions")
    options.add_argument("--sparsity", type=float, default=0.4)
    options.add_argument("--out", type=Path, default=Path("recipes"))
    asked = options.parse_args()

    model, tokenizer = sa.load(asked.model)
    text = asked.text.read_text(encoding="utf-8") if asked.text else sa.calibration.write_text(model, tokenizer)
    seen, unseen = text[: len(text) // 2], text[len(text) // 2 :]

    print(f"{'policy':<12}{'perplexity':>12}{'dense':>8}{'agreement':>11}{'not read':>10}")
    for name in POLICIES:
        policy = sa.policies.make_policy(name, sparsity=asked.sparsity)
        policy.calibrate(model, tokenizer, seen).save(asked.out / name)
        recipe = sa.load_recipe(asked.out / name)
        found = sa.evaluation.evaluate(model, tokenizer, unseen, recipe=recipe)
        print(
            f"{name:<12}{found.perplexity:>12.2f}{found.perplexity_dense:>8.2f}{found.agreement:>11.1%}"
            f"{found.achieved:>10.1%}"
        )
    print(f"The recipes are in {asked.out}; sparseact generate --recipe {asked.out / name} runs one.")


if __name__ == "__main__":
    main()
