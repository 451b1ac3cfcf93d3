"""What this machine has: cores, memory, accelerator, arithmetic units."""

from __future__ import annotations

import platform
from pathlib import Path

from pipeline.cores import cores as cores
from pipeline.errors import ConfigError


def device(wanted: str) -> str:
    """The device asked for; `auto` is the best there is.

    Raises:
        ConfigError: it is not there.
    """
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    if wanted == "auto":
        if len(devices) > 1:
            return devices[1]
        return "cpu"
    name = "cuda:0" if wanted == "cuda" else wanted
    if name not in devices:
        raise ConfigError(
            "finetune.plan.device",
            found=wanted,
            expected="one of " + ", ".join(["auto", *devices]),
            hint="set finetune.plan.device: auto",
        )
    return name


def physical_cores() -> int:
    """Cores this process may use, each counted once however many threads it runs."""
    import psutil

    return min(cores(), psutil.cpu_count(logical=False) or cores())


def machine() -> list[str]:
    """What makes a measured choice this machine's: processor, cores, accelerator,
    PyTorch.
    """
    import torch

    try:
        lines = (
            Path("/proc/cpuinfo")
            .read_text(encoding="utf-8", errors="replace")
            .splitlines()
        )
    except OSError:
        lines = []
    models = []
    for line in lines:
        if line.startswith("model name"):
            models.append(line.partition(":")[2].strip())
    model = models[0] if models else ""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    flags = torch.backends.cpu.get_cpu_capability()
    return [
        platform.machine(),
        model or platform.processor(),
        flags,
        str(cores()),
        gpu,
        torch.__version__,
    ]


def available(device: str) -> int:
    """Bytes of memory that are free now, on the accelerator or for the processor."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def has_bf16(device: str) -> bool:
    """Whether bf16 has units of its own; emulated, it is always slower."""
    import torch

    if device == "cpu":
        return (
            torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        )
    return device.startswith("cuda") and torch.cuda.is_bf16_supported(
        including_emulation=False
    )
