"""Policies by name: a file of this folder each, and those of other packages (entry points of `sparseact.policies`)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from sparseact.calibration.policy import Policy
from sparseact.errors import InputError, unknown_name
from sparseact.utils.registry import with_plugins

GROUP = "sparseact.policies"
DEFAULT = "sparseact"


def _of_file(name: str) -> type[Policy]:
    """The one policy that stands in a file of this folder."""
    module = import_module(f"sparseact.policies.{name}")
    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", "") == module.__name__]
    return next(thing for thing in own if hasattr(thing, "calibrate"))


_FILES = [_of_file(file.stem) for file in Path(__file__).parent.glob("[!_]*.py") if file != Path(__file__)]
POLICIES = {policy.name: policy for policy in sorted(_FILES, key=lambda policy: (policy.name != DEFAULT, policy.name))}
"""The built-in ones, the default first."""


def known_policies() -> dict[str, type[Policy]]:
    """All policies by name.

    Raises:
        InputError: a package's policy cannot be imported.
    """
    return with_plugins(GROUP, POLICIES)


def summary(policy: type[Policy]) -> str:
    """The first line of a policy's description."""
    return (policy.__doc__ or "").strip().partition("\n")[0]


def unfit_policies(*, gated: bool, norms_neurons: bool, has_neurons: bool = True) -> dict[str, str]:
    """Built-in policies that such a model has not what they need for, each with what that is.

    Args:
        gated: its neurons are act(gate) * up.
        norms_neurons: it norms them before down reads them.
        has_neurons: it has an MLP.
    """
    unfit = {}
    for name, policy in POLICIES.items():
        finders = vars(import_module(policy.__module__))
        if not has_neurons and "find_neurons" in finders:
            unfit[name] = "the neurons of an MLP"
        elif norms_neurons and "find_neurons" in finders:
            unfit[name] = "a neuron that need not be computed"
        elif not gated and "up_signal" in finders:
            unfit[name] = "an up projection"
    return unfit


def make_policy(
    name: str,
    sparsity: float,
    options: Mapping[str, str | float | bool] | None = None,
    *,
    dense_prompt: bool = False,
    dense_first: int | None = None,
) -> Policy:
    """A policy by name.

    Args:
        options: fields of the policy's dataclass beside `sparsity` and `phases`.
        dense_prompt: leave the prompt dense, be sparse in decoding only.
        dense_first: positions at the start of each text that stay dense; by default the policy decides.

    Raises:
        InputError: no such policy or option, or a value of another type.
    """
    policies = known_policies()
    if name not in policies:
        raise unknown_name("policy: unknown policy", name, sorted(policies))
    if not 0 <= sparsity <= 1:
        raise InputError(f"sparsity: {sparsity} is not between 0 and 1")
    _check_options(name, policies[name], options or {})
    policy: Any = cast(Any, policies[name])(sparsity=sparsity, **(options or {}))
    phases = policy.phases
    if dense_prompt:
        phases = replace(phases, prefill=False)
    if dense_first is not None:
        if dense_first < 0:
            raise InputError(f"dense_first: {dense_first} is negative")
        phases = replace(phases, dense_first=dense_first)
    made: Policy = replace(policy, phases=phases)
    return made


def read_options(settings: Iterable[str]) -> dict[str, Any]:
    """Options from NAME=VALUE: numbers, true and false, and names.

    Raises:
        InputError: one is something else.
    """
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name or not value:
            raise InputError(f"option: {setting!r} is not NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _check_options(name: str, policy: Any, options: Mapping[str, Any]) -> None:
    defaults = {field.name: field.default for field in _options(policy)}
    for option, value in options.items():
        if option not in defaults:
            if not defaults:
                raise InputError(f"option: the policy {name} has no options; found {option!r}")
            raise unknown_name(f"option: unknown option of {name}", option, defaults)
        default = defaults[option]
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise InputError(f"option: {option}: {value!r} is not a {type(default).__name__}, as {default!r} is")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"option: {option}: {value} is not a finite number")
        allowed = get_args(get_type_hints(policy)[option])
        if allowed and value not in allowed:
            raise unknown_name(f"option: {option}", str(value), allowed)


def _options(policy: Any) -> list[Field[Any]]:
    """What `make_policy` takes: the fields with a plain default."""
    return [field for field in fields(policy) if isinstance(field.default, (bool, int, float, str))]
