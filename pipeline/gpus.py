"""Accelerators by name: arithmetic, memory and rent.

Peaks are the makers' dense figures of the SXM boards (L40S: PCIe), memory what the driver shows,
less than the label. Rents are round assumptions, to be replaced by an offer in hand.
"""

import re
from dataclasses import dataclass

from pipeline.errors import ConfigError

GIB = 2**30
USABLE_MEMORY = 0.9
"""Share of the memory that tensors may fill; the rest is the CUDA context, work spaces of libraries
and gaps between blocks. An assumption."""
MFU = {"transformer": 350 / 989, "u_net": 300 / 989}
"""Share of the peak that a training reaches in bfloat16, by kind of network: 350 and 300 TFLOP/s on
an H100. An estimate; nothing here was measured on a GPU."""
CPU_FLOPS = 30e9
"""Operations per second of one core in float32. Six models of the demo reached 20 to 144 on a
shared Xeon at 2.5 GHz; the fast ones have short captions, whose padding is counted here."""
CPU_HOUR_PRICE = 0.04
"""Of one core, dollars, where the run file names no price; an assumption."""


@dataclass(frozen=True)
class Gpu:
    """One accelerator."""

    name: str
    memory_bytes: int
    bf16_flops: float
    """Operations per second on tensor cores, dense."""
    fp32_flops: float
    """Operations per second in float32 proper."""
    price: float
    """Rent of one hour, dollars."""

    def peak_flops(self, precision: str) -> float:
        """Operations per second in a training's precision, ``bfloat16`` or ``float32``."""
        return self.bf16_flops if precision == "bfloat16" else self.fp32_flops


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 80 * GIB, 312e12, 19.5e12, 1.8),
        Gpu("l40s", 45 * GIB, 362e12, 91.6e12, 1.0),
        Gpu("h100", 80 * GIB, 989e12, 67e12, 2.5),
        Gpu("h200", 140 * GIB, 989e12, 67e12, 3.2),
        Gpu("b200", 178 * GIB, 2250e12, 75e12, 5.0),
    )
}


def of_device(device_name: str) -> Gpu | None:
    """The accelerator that a driver calls so; None where the table does not tell its peak.

    Boards with less power (PCIe, NVL) than the table's have other peaks.
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    if words & {"pcie", "nvl"}:
        return None
    return next((gpu for name, gpu in GPUS.items() if name in words), None)


def named(name: str) -> Gpu:
    """The accelerator of a name.

    Raises:
        ConfigError: It is not in the table.
    """
    if name not in GPUS:
        raise ConfigError(f"--gpu {name}: not in the table, which has {', '.join(GPUS)}")
    return GPUS[name]
