"""What a model family is: the one place that says where it keeps its units, what it computes and how files name it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparseact.errors import InputError
from sparseact.models.architecture import Architecture
from sparseact.models.families.config import Config
from sparseact.models.tensor_names import Naming


@dataclass(frozen=True)
class Layout:
    """Module names inside one block of a family, or inside one kind of its blocks.

    Attributes:
        name: of the family that has it, for messages and docs.
        mlp_in: linears whose outputs are the neurons (gate and up; fused counts as one); none where a block has no MLP.
        mlp_out: linear whose input is the neurons.
        attention_in: linears that make queries, keys and values, the one with the queries first (fused
            counts as one); or the linears that read the same in a block without attention.
        attention_out: linear whose input is the heads' outputs, or what stands in their place.
        has_heads: what enters `attention_out` is made by heads of attention; a convolution or a state-space layer has
            none, and its inputs are channels only.
        others: linears beside these, whose inputs are channels only.
    """

    name: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    attention_in: tuple[str, ...]
    attention_out: str
    has_heads: bool = True
    others: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """All module names that a block of this layout must have."""
        mlp = (*self.mlp_in, self.mlp_out) if self.mlp_in else ()
        return (*self.attention_in, self.attention_out, *mlp, *self.others)


def _as_it_is(_metadata: Mapping[str, Any], _config: Mapping[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class GGUF:
    """How GGUF files hold a family; what they all hold alike is in `sources.gguf_config`.

    Attributes:
        architecture: their `general.architecture`.
        paired: rows of q and k stand in pairs, see `tensor_names.Place.pairs`.
        config: what to add to a config, or to replace in it: from the metadata (keys without the architecture)
            and the config in transformers' words that was made of them.
        names: of tensors that are not called as in most architectures, by canonical name.
    """

    architecture: str
    paired: bool = False
    config: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] = _as_it_is
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A family of models. Other packages publish theirs as entry points of the group `sparseact.families`.

    Attributes:
        model_type: transformers' name of it.
        layout: where the units are in a model of transformers.
        other_layouts: where they are in blocks of other kinds; of all layouts a block has the first that fits it.
        activation: of the neurons, where configs do not name it.
        gate_factor: from a config in transformers' words, the factor on gate's outputs before the activation; None
            for 1.
        own_sparsity: from a config in transformers' words, the share of each layer's neurons that the model itself
            leaves off, see `recipes.gate.Signal`; None where it leaves none off.
        gated: the neurons are act(gate) * up; None where `architecture` says it, or it is not known.
        architecture: reads a config for the engine; None where the engine does not run the family.
        engine_lacks: what of the family the engine has not, if it does not run it.
        naming: of its tensors in transformers, without the path of the decoder; goes with `architecture`.
        gguf: how GGUF files hold it; None where the engine does not read them.
        shared: a module that all blocks have in common.
        part_of: transformers' name of the models that see, of which it is the language model; their folders run as it.
        text_defaults: what the `text_config` of those leaves out.
        tiny: configs of small models for tests by name: what differs from `TINY`.

    Raises:
        InputError: `architecture` without `naming`, or the reverse.
    """

    model_type: str
    layout: Layout
    other_layouts: tuple[Layout, ...] = ()
    activation: str = ""
    gate_factor: Callable[[Mapping[str, Any]], float] | None = None
    own_sparsity: Callable[[Mapping[str, Any]], tuple[float, ...]] | None = None
    gated: bool | None = None
    architecture: Callable[[Config], Architecture] | None = None
    engine_lacks: str = ""
    naming: Naming | None = None
    gguf: GGUF | None = None
    shared: str = ""
    part_of: str = ""
    text_defaults: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.architecture is None) != (self.naming is None):
            raise InputError(f"family {self.model_type}: the engine needs both `architecture` and `naming`, or neither")

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Those of all its kinds of blocks."""
        return (self.layout, *self.other_layouts)


TINY: Mapping[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,  # tied, a random model repeats its last token
}
"""The config of every tiny model, in the words that most families share."""
TINY_WINDOW = 4
"""Positions of a tiny model's sliding window."""
TINY_YARN: Mapping[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
"""A rotation by yarn whose ramp is within the few pairs of a tiny model's head."""
TINY_LLAMA3: Mapping[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
"""The same for the scaling of Llama 3."""
