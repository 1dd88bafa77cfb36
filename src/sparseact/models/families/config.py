"""A config in the words of transformers, and what the families' readers share: sizes, rotation, windows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from sparseact.errors import InputError, UnsupportedModelError
from sparseact.models.architecture import Activation
from sparseact.models.rope import Rotation, rope_parameters, rotation

_ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "relu2": Activation.RELU_SQUARED,
}

LISTED = "docs/families.md lists what it runs"
"""The end of every refusal of a model."""
_NOPE = "nope"
"""The kind of layers that do not rotate."""


@dataclass(frozen=True)
class Config:
    """A config, and what its errors of one line say.

    Attributes:
        values: a config.json, or a config object's `to_dict()`, in transformers 4's or 5's words.
        where: its file.
    """

    values: Mapping[str, Any]
    where: str

    def get(self, name: str, default: Any = None) -> Any:
        """A value; one that is null counts as absent."""
        value = self.values.get(name)
        return default if value is None else value

    def size(self, name: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.where}: {name} is {value!r}; it must be a positive integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{self.where}: {name} is {value!r}; it must be a number")
        return float(value)

    def token(self, name: str) -> int:
        """A token of the vocabulary; 0 where there is none, or what is there is no number."""
        value = self.get(name)
        return value if isinstance(value, int) and 0 <= value < self.size("vocab_size") else 0

    def activation(self, name: str, default: str) -> Activation:
        """What the neurons go through."""
        found = self.get(name, default)
        if found not in _ACTIVATIONS:
            raise UnsupportedModelError(
                f"{self.where}: the engine has no activation {found!r}; it has {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[found]

    def refuse(self, *found: str) -> None:
        """Refuse what the engine does not do, where the config asks for it."""
        for name in found:
            if self.get(name):
                found_here = shorten(repr(self.get(name)), 60, placeholder=" ...")
                raise UnsupportedModelError(
                    f"{self.where}: the engine does not run models with {name} = {found_here}; {LISTED}"
                )

    def sizes(self) -> dict[str, Any]:
        """The fields of an `Architecture` that every family says in the same words."""
        heads, hidden = self.size("num_attention_heads"), self.size("hidden_size")
        head_dim = self.size("head_dim", max(1, hidden // heads))
        return {
            "family": self.get("model_type"),
            "layers": self.size("num_hidden_layers"),
            "hidden": hidden,
            "heads": heads,
            "kv_heads": self.size("num_key_value_heads", heads),
            "head_dim": head_dim,
            "vocabulary": self.size("vocab_size"),
            "context": self.size("max_position_embeddings"),
            "attention_scale": head_dim**-0.5,
            "first_token": self.token("bos_token_id"),
        }

    def rotation(self, rotates: Iterable[Any] | None = None) -> dict[str, Any]:
        """The fields of an `Architecture` whose layers all rotate alike, or those do for which `rotates` is true."""
        layers = [True] * self.size("num_hidden_layers") if rotates is None else rotates
        return self.rotations({"": rope_parameters(self.values)}, ["" if one else _NOPE for one in layers])

    def rotations(self, by_kind: Mapping[str, Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, Any]:
        """The same for layers of these kinds, from the parameters of each kind; those of the kind `_NOPE` do not."""
        if not {*by_kind, _NOPE}.issuperset(kinds):
            raise InputError(f"{self.where}: rope_parameters lacks one of the layers' kinds {sorted(set(kinds))}")
        head_dim = self.sizes()["head_dim"]
        share = next(iter(by_kind.values())).get("partial_rotary_factor", 1.0)
        rotary_dim = int(head_dim * share)
        if rotary_dim < 2 or rotary_dim % 2:
            raise InputError(f"{self.where}: {share!r} of {head_dim} dimensions of a head cannot rotate in pairs")
        names, context = sorted(by_kind), self.size("max_position_embeddings")
        found = [rotation(by_kind[name], rotary_dim, context, where=self.where) for name in names]
        if _NOPE in kinds:
            names, found = [*names, _NOPE], [*found, Rotation((0.0,) * (rotary_dim // 2))]
        limit = min((one.limit for one in found if one.limit), default=context)
        reached = f"its rotary embedding changes with the length of texts longer than {limit} tokens"
        return {
            "rotary_dim": rotary_dim,
            "frequencies": tuple(one.frequencies for one in found),
            "rotation_scales": tuple(one.scale for one in found) if any(one.scale != 1 for one in found) else (),
            "layer_frequencies": tuple(names.index(kind) for kind in kinds),
            **({"context": limit, "why_context": reached} if limit < context else {}),
        }

    def windows(self, kinds: Sequence[str]) -> tuple[int, ...]:
        """Each layer's window, from its kind: `full_attention` or `sliding_attention`."""
        known = {"full_attention", "sliding_attention"}
        if len(kinds) != self.size("num_hidden_layers") or not known.issuperset(kinds):
            raise UnsupportedModelError(
                f"{self.where}: layer_types must name one of {', '.join(sorted(known))} for each layer, not {kinds}"
            )
        return tuple(self.size("sliding_window") if kind == "sliding_attention" else 0 for kind in kinds)
