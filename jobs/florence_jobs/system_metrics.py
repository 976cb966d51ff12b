"""How busy this machine is, under the names that MLflow's pages show as system metrics."""

from __future__ import annotations

import importlib
from typing import Any

import psutil

MEGABYTE = 1e6


class SystemSampler:
    """Samples processors, memory and, where NVIDIA's library answers, GPUs.

    Args:
        node: number of this node among several; names are MLflow's for several nodes then.
    """

    def __init__(self, node: int | None = None) -> None:
        self._prefix = "system/" if node is None else f"system/node-{node}/"
        self._nvml = _nvml()
        # The first call has nothing to compare with and always answers 0.
        psutil.cpu_percent()

    def __call__(self) -> dict[str, float]:
        """One sample: percentages in [0, 100], megabytes, watts."""
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_usage_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
        }
        return {f"{self._prefix}{name}": value for name, value in (values | self._gpus()).items()}

    def _gpus(self) -> dict[str, float]:
        if self._nvml is None:
            return {}
        values: dict[str, float] = {}
        try:
            for index in range(self._nvml.nvmlDeviceGetCount()):
                device = self._nvml.nvmlDeviceGetHandleByIndex(index)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(device)
                busy = self._nvml.nvmlDeviceGetUtilizationRates(device)
                name = f"gpu_{index}"
                values[f"{name}_memory_usage_megabytes"] = memory.used / MEGABYTE
                values[f"{name}_memory_usage_percentage"] = 100 * memory.used / memory.total
                values[f"{name}_utilization_percentage"] = float(busy.gpu)
                watts = self._nvml.nvmlDeviceGetPowerUsage(device) / 1000
                values[f"{name}_power_usage_watts"] = watts
        except self._nvml.NVMLError:
            # A device that does not report something (a slice of one, say) keeps what was read.
            return values
        return values


def _nvml() -> Any | None:
    """NVIDIA's management library, if it is installed and finds a driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
