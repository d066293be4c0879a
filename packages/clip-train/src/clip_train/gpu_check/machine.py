"""What the checks ran on: device, clocks, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

LIBRARIES = ("torch", "torchvision", "triton", "open_clip_torch", "clip-train", "clip-models")


def describe_machine(device: torch.device) -> dict[str, str]:
    """Names and versions, for the head of the report."""
    found = {
        "device": "CPU",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "libraries": ", ".join(filter(None, map(_version, LIBRARIES))),
    }
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    return found | {
        "device": f"{torch.cuda.device_count()} x {properties.name}, "
        f"{properties.total_memory / 2**30:.0f} GiB, compute capability "
        f"{properties.major}.{properties.minor}",
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",  # type: ignore[no-untyped-call]
        "bfloat16": "yes" if torch.cuda.is_bf16_supported() else "no",
        "clocks": _clocks(),
    }


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _clocks() -> str:
    """Clocks, power and driver as nvidia-smi tells them."""
    fields = "clocks.sm,clocks.max.sm,power.limit,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown (nvidia-smi does not answer)"
    return done.stdout.splitlines()[0] + " (SM now, SM at most, power limit, driver)"
