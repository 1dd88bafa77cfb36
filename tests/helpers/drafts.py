"""What holds for the text of a lossless engine, whatever drafts it."""

from sparseact.engine.engine import Engine


def check_text_is_dense(model, recipe, ids):
    """At q8, after a prompt."""
    with (
        Engine.from_model(model, recipe, dtype="q8", threads=1, lossless=True) as engine,
        Engine.from_model(model, dtype="q8", threads=1) as dense,
    ):
        for one in (engine, dense):
            one.prefill(ids)
        assert engine.greedy(20) == dense.greedy(20)
