"""Tiny random models of every known family, for tests that never download.

The weights are larger than a fresh model's and the biases are not zero, so that every part of a
block moves the logits; a test that passes on them could have failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import eager_mask

from sparseact.errors import unknown_name
from sparseact.models.families import BUILTIN, Family, family_where, known_families
from sparseact.models.families.base import TINY, TINY_WINDOW

VOCABULARY, HIDDEN, LAYERS = TINY["vocab_size"], TINY["hidden_size"], TINY["num_hidden_layers"]
HEADS, NEURONS, POSITIONS = TINY["num_attention_heads"], TINY["intermediate_size"], TINY["max_position_embeddings"]
PAD, BOS, EOS = TINY["pad_token_id"], TINY["bos_token_id"], TINY["eos_token_id"]
SLIDING_WINDOW = TINY_WINDOW


def _tiny_families(families: Mapping[str, Family]) -> dict[str, Family]:
    """The family of each tiny model by the model's name."""
    return {name: family for family in families.values() for name in family.tiny}


def _config(name: str, family: Family) -> Any:
    return AutoConfig.for_model(family.model_type, **{**TINY, **family.tiny[name]})


FAMILIES: dict[str, Callable[[], Any]] = {
    name: partial(_config, name, family) for name, family in _tiny_families(BUILTIN).items()
}
"""Config of a tiny model of each built-in family: 3 layers, 4 heads, 48 neurons, 64 tokens, float32."""


DISTINCT = (
    *("llama", "mobillama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma2", "gemma3", "opt", "opt-post-norm"),
    *("gpt2", "gpt-neox", "gpt-neox-sequential", "stablelm", "olmo2", "nemotron", "granite4"),
)
"""Those that differ in how a block is made up or where it keeps its units. The others are like one of them to all that
works by hooks: tests of methods run on these, tests of reading on all."""


def tiny_model(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A random model of a family in `FAMILIES`, or of another package's, in evaluation mode.

    Raises:
        InputError: the family is not one of them.
    """
    families = _tiny_families(BUILTIN if family in FAMILIES else known_families())
    if family not in families:
        raise unknown_name("family: unknown family", family, families)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(family, families[family]))
        with torch.no_grad():
            for parameter in model.parameters():  # no bias stays 0, no norm's weight 1
                parameter.add_(0.1 * torch.randn_like(parameter))
    if shared := families[family].shared:
        for block in model.model.layers:
            setattr(block, shared, getattr(model.model.layers[0], shared))
    return model.eval()


def tiny_tokenizer() -> Any:
    """A tokenizer for the tiny models: one token per character of printable ASCII, without a chat template."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!-'"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def float64_model(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a model, in place, to float64 that is exact throughout.

    transformers computes RMS norms and the softmax of eager attention in float32 whatever the dtype;
    the norms' forwards are replaced on this model's modules, and a model that runs eager attention
    gets one of its own, named `float64`, in transformers' table.
    """
    model.double()
    family = family_where(lambda family: family.model_type == model.config.model_type and family.naming is not None)
    added = family.naming.added_to_norms if family and family.naming else 0.0
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _exact_norm(module, added)
    if model.config._attn_implementation == "eager":  # noqa: SLF001 - transformers has no public getter
        AttentionInterface.register("float64", _exact_attention)
        AttentionMaskInterface.register("float64", eager_mask)
        model.set_attn_implementation("float64")
    return model


def _exact_norm(module: Any, added: float) -> Callable[[Tensor], Tensor]:
    epsilon = module.eps if hasattr(module, "eps") else module.variance_epsilon

    def forward(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * (module.weight + added)

    return forward


def _exact_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    softcap: float | None = None,
    **_options: Any,
) -> tuple[Tensor, None]:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    logits = query @ key.mT * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return ((logits + attention_mask).softmax(-1) @ value).transpose(1, 2).contiguous(), None
