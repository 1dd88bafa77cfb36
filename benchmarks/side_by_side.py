"""What the dense model and recipes of it write, greedily, one below the other, as Markdown.

python benchmarks/side_by_side.py --model smollm2 runs/recipes/smollm2-* > runs/side-by-side.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sparseact as sa

PROMPTS = ("Why is the sky blue?", "Write a short story about a robot who learns to paint.")


def main() -> None:
    """Print a section for each prompt."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("recipes", nargs="+", type=Path)
    options.add_argument("--model", default="smollm2")
    options.add_argument("--tokens", type=int, default=48)
    arguments = options.parse_args()
    model, tokenizer = sa.load(arguments.model)
    recipes = [sa.load_recipe(folder) for folder in arguments.recipes]
    for prompt in PROMPTS:
        print(f"**{prompt}**\n")
        for recipe in [None, *recipes]:
            written = sa.generate(model, tokenizer, prompt, recipe=recipe, max_new_tokens=arguments.tokens)
            name = f"`{recipe.policy}` {written.achieved:.0%}" if recipe else "dense"
            print(f"- {name}: {' '.join(written.text.split())}", flush=True)
        print()


if __name__ == "__main__":
    main()
