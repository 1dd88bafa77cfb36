"""What a measurement ran on, so that a number can be read beside it."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import sparseact
from sparseact.utils.processors import processors

_PACKAGES = ("torch", "transformers", "numpy", "safetensors", "gguf", "pandas", "sacrebleu")


def describe(device: object = "cpu", dtype: object = None) -> dict[str, Any]:
    """The machine, the threads and the versions that a result depends on, ready for JSON.

    Args:
        device: the device that was used, a torch.device or its name: "cpu", "cuda:0", "mps".
        dtype: the type of the weights that was used, a torch.dtype or its name; left out if None.

    Returns:
        `cpu` (str), `cores` (int, those this process may use), `memory_bytes` (int or None), `threads`
        (int, of torch), `device`, `device_name`, `dtype`, `platform`, `python`, `versions`.
    """
    import torch

    device = str(device)
    described: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": processors(),
        "memory_bytes": _memory_bytes(),
        "threads": torch.get_num_threads(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"sparseact": sparseact.__version__} | installed_versions(_PACKAGES),
    }
    if dtype is not None:
        described["dtype"] = str(dtype).removeprefix("torch.")
    return described


def installed_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The version of each of `packages` that is installed; the others are left out."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """The name of the processor as the system tells it, or its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def available_bytes() -> int | None:
    """Memory that programs can still get; None where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a system that tells
        return None
