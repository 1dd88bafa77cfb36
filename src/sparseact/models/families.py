"""From a config in the words of transformers to an `Architecture`: one short reader for each family."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Activation, Architecture, Norm
from sparseact.models.rope import frequencies, rope_parameters

_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


@dataclass(frozen=True)
class _Config:
    """A config and where it came from, for errors of one line."""

    values: Mapping[str, Any]
    where: str

    def get(self, name: str, default: Any = None) -> Any:
        """A value; one that is null counts as absent."""
        value = self.values.get(name)
        return default if value is None else value

    def size(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.where}: {name} is {value!r}; it must be a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{self.where}: {name} is {value!r}; it must be a number")
        return float(value)

    def token(self, name: str) -> int:
        """A token of the vocabulary; 0 where there is none, or what is there is no number."""
        value = self.get(name)
        return value if isinstance(value, int) and 0 <= value < self.size("vocab_size") else 0

    def refuse(self, *found: str) -> None:
        """Refuse what the engine does not do, where the config asks for it."""
        for name in found:
            if self.get(name):
                raise UnsupportedModelError(
                    f"{self.where}: the engine does not run models with {name} = {self.get(name)!r}; "
                    f"it runs {', '.join(FAMILIES)}"
                )

    def activation(self, name: str, default: str) -> Activation:
        found = self.get(name, default)
        if found not in _ACTIVATIONS:
            raise UnsupportedModelError(
                f"{self.where}: the engine has no activation {found!r}; it has {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[found]


def read_config(values: Mapping[str, Any], where: str) -> Architecture:
    """The architecture of a config.json, or of a config object's `to_dict()`.

    Args:
        values: the config, in transformers 4's or 5's words.
        where: its file, for errors.

    Raises:
        UnsupportedModelError: a family, activation or rotary embedding that the engine does not have.
        InputError: a size is missing or senseless.
    """
    config = _Config(values, where)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UnsupportedModelError(
            f"{where}: the engine does not run models of type {family!r}; it runs {', '.join(FAMILIES)}"
        )
    config.refuse("quantization_config", "use_bidirectional_attention", "add_cross_attention")
    try:
        architecture = FAMILIES[family](config)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: this config is damaged: {type(error).__name__} {error}") from error
    if architecture.heads % architecture.kv_heads:
        raise InputError(
            f"{where}: {architecture.heads} attention heads are not a multiple of {architecture.kv_heads} key heads"
        )
    return architecture


def _sizes(config: _Config) -> dict[str, Any]:
    """What every family says in the same words."""
    heads, hidden = config.size("num_attention_heads"), config.size("hidden_size")
    head_dim = config.size("head_dim", max(1, hidden // heads))
    return {
        "family": config.get("model_type"),
        "layers": config.size("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.size("num_key_value_heads", heads),
        "head_dim": head_dim,
        "vocabulary": config.size("vocab_size"),
        "context": config.size("max_position_embeddings"),
        "attention_scale": head_dim**-0.5,
        "first_token": config.token("bos_token_id"),
    }


def _rotary(config: _Config, by_kind: Mapping[str, Mapping[str, Any]], kinds: list[str]) -> dict[str, Any]:
    """How layers of these kinds rotate, from the parameters of each kind."""
    if not set(by_kind).issuperset(kinds):
        raise InputError(f"{config.where}: rope_parameters lacks one of the layers' kinds {sorted(set(kinds))}")
    head_dim = _sizes(config)["head_dim"]
    share = next(iter(by_kind.values())).get("partial_rotary_factor", 1.0)
    rotary_dim = int(head_dim * share)
    if rotary_dim < 2 or rotary_dim % 2:
        raise InputError(f"{config.where}: {share!r} of {head_dim} dimensions of a head cannot rotate in pairs")
    names = sorted(by_kind)
    return {
        "rotary_dim": rotary_dim,
        "frequencies": tuple(frequencies(by_kind[name], rotary_dim, where=config.where) for name in names),
        "layer_frequencies": tuple(names.index(kind) for kind in kinds),
    }


def _one_rotation(config: _Config) -> dict[str, Any]:
    return _rotary(config, {"": rope_parameters(config.values)}, [""] * config.size("num_hidden_layers"))


def _windows(config: _Config, kinds: list[str]) -> tuple[int, ...]:
    known = {"full_attention", "sliding_attention"}
    if len(kinds) != config.size("num_hidden_layers") or not known.issuperset(kinds):
        raise UnsupportedModelError(
            f"{config.where}: layer_types must name one of {', '.join(sorted(known))} for each layer, not {kinds}"
        )
    return tuple(config.size("sliding_window") if kind == "sliding_attention" else 0 for kind in kinds)


def _every(config: _Config) -> tuple[int, ...]:
    """Windows of a model in which all layers have the same one, or none."""
    return (config.size("sliding_window") if config.get("sliding_window") else 0,) * config.size("num_hidden_layers")


def _llama(config: _Config) -> Architecture:
    return Architecture(
        **_sizes(config),
        **_one_rotation(config),
        neurons=config.size("intermediate_size"),
        norm=Norm.RMS,
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        activation=config.activation("hidden_act", "silu"),
        gated=True,
        tied=bool(config.get("tie_word_embeddings", False)),
        windows=(0,) * config.size("num_hidden_layers"),
    )


def _mistral(config: _Config) -> Architecture:
    return replace(_llama(config), windows=_every(config))


def _qwen2(config: _Config) -> Architecture:
    layers = config.size("num_hidden_layers")
    if not config.get("use_sliding_window", False):
        return _llama(config)
    first = config.size("max_window_layers", 28)
    kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    return replace(_llama(config), windows=_windows(config, config.get("layer_types", kinds)))


def _qwen3(config: _Config) -> Architecture:
    return replace(_qwen2(config), qk_norm=True)


def _gemma(config: _Config, kinds: list[str]) -> Architecture:
    """What Gemma 2 and 3 share."""
    return Architecture(
        **_sizes(config) | {"attention_scale": config.number("query_pre_attn_scalar", 256) ** -0.5},
        neurons=config.size("intermediate_size"),
        norm=Norm.RMS,
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        activation=config.activation("hidden_activation", "gelu_pytorch_tanh"),
        gated=True,
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=_windows(config, kinds),
        post_norms=True,
        final_softcap=config.number("final_logit_softcapping", 0.0),
        embedding_scale=config.size("hidden_size") ** 0.5,
    )


def _gemma2(config: _Config) -> Architecture:
    kinds = _alternating(config, 2)
    return replace(
        _gemma(config, kinds),
        **_one_rotation(config),
        # Absent means the default of the family, null means none.
        attention_softcap=config.values.get("attn_logit_softcapping", 50.0) or 0.0,
        final_softcap=config.values.get("final_logit_softcapping", 30.0) or 0.0,
    )


def _gemma3(config: _Config) -> Architecture:
    kinds = _alternating(config, config.size("sliding_window_pattern", 6))
    # transformers 4 named the two kinds of layers apart; only full attention was scaled.
    full = {"rope_theta": 1e6, **config.values, **config.get("rope_scaling", {})}
    old = {
        "full_attention": rope_parameters(full),
        "sliding_attention": {"rope_theta": config.number("rope_local_base_freq", 10_000.0)},
    }
    return replace(_gemma(config, kinds), **_rotary(config, config.get("rope_parameters", old), kinds), qk_norm=True)


def _alternating(config: _Config, pattern: int) -> list[str]:
    """The kinds of the layers; if the config does not list them, every `pattern`-th sees everything."""
    layers = range(1, config.size("num_hidden_layers") + 1)
    return config.get("layer_types", ["sliding_attention" if i % pattern else "full_attention" for i in layers])


def _phi(config: _Config) -> Architecture:
    config.refuse("qk_layernorm")
    # Phi rotates half of a head unless it says otherwise.
    halved = _Config({"partial_rotary_factor": 0.5, **config.values}, config.where)
    return Architecture(
        **_sizes(config),
        **_one_rotation(halved),
        neurons=config.size("intermediate_size"),
        norm=Norm.LAYER,
        norm_epsilon=config.number("layer_norm_eps", 1e-5),
        activation=config.activation("hidden_act", "gelu_new"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", False)),
        windows=(0,) * config.size("num_hidden_layers"),
        parallel=True,
    )


def _gpt2(config: _Config) -> Architecture:
    config.refuse("scale_attn_by_inverse_layer_idx")
    names = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    renamed = {new: config.get(old) for old, new in (names | {"n_positions": "max_position_embeddings"}).items()}
    sizes = _sizes(_Config({**config.values, **renamed}, config.where))
    if not config.get("scale_attn_weights", True):
        sizes["attention_scale"] = 1.0
    return Architecture(
        **sizes,
        neurons=config.size("n_inner", 4 * sizes["hidden"]),
        norm=Norm.LAYER,
        norm_epsilon=config.number("layer_norm_epsilon", 1e-5),
        activation=config.activation("activation_function", "gelu_new"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=(0,) * sizes["layers"],
    )


def _opt(config: _Config) -> Architecture:
    config.refuse("_remove_final_layer_norm")
    if not config.get("do_layer_norm_before", True) or config.get("word_embed_proj_dim") != config.get("hidden_size"):
        raise UnsupportedModelError(
            f"{config.where}: the engine does not run OPT with norms after the blocks or projected embeddings "
            f"(OPT-350m); it runs all other OPT, and {', '.join(name for name in FAMILIES if name != 'opt')}"
        )
    return Architecture(
        **_sizes(config),
        neurons=config.size("ffn_dim"),
        norm=Norm.LAYER,
        norm_epsilon=1e-5,
        activation=config.activation("activation_function", "relu"),
        gated=False,
        tied=bool(config.get("tie_word_embeddings", True)),
        windows=(0,) * config.size("num_hidden_layers"),
    )


FAMILIES: dict[str, Callable[[_Config], Architecture]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _mistral,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "phi": _phi,
    "gpt2": _gpt2,
    "opt": _opt,
}
"""The families that the engine runs, by transformers' `model_type`."""
