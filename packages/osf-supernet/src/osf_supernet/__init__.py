"""Weight-sharing supernets from any pretrained module."""

from __future__ import annotations

from osf_supernet.archive import load, load_supernet, save, save_supernet
from osf_supernet.counting import count_parameters
from osf_supernet.graph import Graph, build_graph
from osf_supernet.space import Choice, Space, ratios, sizes
from osf_supernet.supernet import Supernet
from osf_supernet.surgery import ActiveReport, Surgery, active, operate
from osf_supernet.tracing import TraceError
from osf_supernet.verification import Certificate, VerificationError

__all__ = [
    "ActiveReport",
    "Certificate",
    "Choice",
    "Graph",
    "Space",
    "Supernet",
    "Surgery",
    "TraceError",
    "VerificationError",
    "active",
    "build_graph",
    "count_parameters",
    "load",
    "load_supernet",
    "operate",
    "ratios",
    "save",
    "save_supernet",
    "sizes",
]
