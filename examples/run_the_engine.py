"""Decode on the CPU without torch: text as it comes, what it read, and token by token.

python examples/run_the_engine.py --model smollm2 --dtype q8
"""

import argparse

import sparseact as sa


def main() -> None:
    """Answer a prompt, then do by hand what that did."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="smollm2", help="a built-in name, a folder or a GGUF file")
    options.add_argument("--prompt", default="Why is the sky blue?")
    options.add_argument("--recipe", help="a folder that sparseact calibrate wrote")
    options.add_argument("--dtype", default="q8", help="q8, q4, bf16, f32, or file: as the file has it")
    options.add_argument("--max-new-tokens", type=int, default=32)
    asked = options.parse_args()

    tokenizer, ends = sa.models.load_tokenizer(asked.model)
    recipe = sa.load_recipe(asked.recipe) if asked.recipe else None
    with sa.Engine.from_model(asked.model, recipe=recipe, dtype=asked.dtype) as engine:
        written = sa.generate(
            engine,
            tokenizer,
            asked.prompt,
            max_new_tokens=asked.max_new_tokens,
            ends=ends,
            on_text=lambda text: print(text, end=""),
        )
        print(f"\n{written.tokens} tokens; {engine.bytes_per_token() / 1e6:.1f} MB of weights read for each")

        # The same below: the prompt at once, then one token after the other.
        engine.reset()
        logits = engine.prefill(tokenizer.encode(asked.prompt))
        for _ in range(4):
            token = int(logits.argmax())
            print(f"token {token} {tokenizer.decode([token])!r} has logit {logits[token]:.2f}")
            logits = engine.step(token)


if __name__ == "__main__":
    main()
