"""Kubernetes quantities, such as 500m and 16Gi."""

from __future__ import annotations

import re

_UNITS = {
    **{"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
    **{"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40},
}


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number; ``ValueError`` when it is not one."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|[kMGT]|[KMGT]i)?", str(text))
    if match is None:
        raise ValueError(f"'{text}' is not a quantity: write it as 2, 500m, 16Gi")
    number, unit = float(match[1]), match[2] or ""
    return number / 1000 if unit == "m" else number * _UNITS[unit]
