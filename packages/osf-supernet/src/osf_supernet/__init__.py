"""Weight-sharing supernets from any pretrained module."""

from __future__ import annotations

from osf_supernet.counting import count_parameters
from osf_supernet.surgery import ActiveReport, Surgery, active, operate

__all__ = ["ActiveReport", "Surgery", "active", "count_parameters", "operate"]
