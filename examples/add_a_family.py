"""A model family of one's own: StarCoder 2, a Mistral with layer norms and an ungated MLP.

In a package, two lines of pyproject.toml make it known to every command, to transformers' models and to the engine:

    [project.entry-points."sparseact.families"]
    starcoder2 = "add_a_family:FAMILY"
"""

from dataclasses import replace

from sparseact.models.architecture import Architecture, Norm
from sparseact.models.families import BUILTIN, Config, Family, Layout, llama, mistral
from sparseact.models.tensor_names import Naming


def read(config: Config) -> Architecture:
    """What the engine computes, from a config."""
    return replace(
        mistral.read(config),
        norm=Norm.LAYER,
        norm_epsilon=config.number("norm_epsilon", 1e-5),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", True)),
    )


FAMILY = Family(
    "starcoder2",  # transformers' model_type
    Layout("StarCoder 2", ("mlp.c_fc",), "mlp.c_proj", llama.QKV, "self_attn.o_proj"),
    architecture=read,
    naming=Naming(llama.NAMES | {"gate": "layers.{}.mlp.c_fc", "down": "layers.{}.mlp.c_proj"}),
    tiny={"starcoder2": {"num_key_value_heads": 2, "sliding_window": 4}},  # for sparseact.testing.tiny_model
)


def main() -> None:
    """Run a tiny random model of the family on both sides: they must compute the same."""
    import torch

    import sparseact as sa
    from sparseact.testing import tiny_model

    BUILTIN["starcoder2"] = FAMILY  # in a script; the entry point does it for a package
    model = tiny_model("starcoder2")
    for site in sa.sites.find_sites(model)[:2]:
        print(f"{site.name}: {site.units} units, the input of {site.module}")
    ids = list(range(3, 23))
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].numpy()
    with sa.Engine.from_model(model, dtype="f32") as engine:
        difference = abs(engine.prefill(ids) - expected).max()
    print(f"logits of the engine and of transformers differ by {difference:.1e} at most")


if __name__ == "__main__":
    main()
