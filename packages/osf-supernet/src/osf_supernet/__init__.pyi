from .counting import count_parameters
from .files.archive import load, load_supernet, save, save_supernet
from .graph.graph import Graph, build_graph
from .subnets.space import Choice, Space, ratios, sizes
from .subnets.surgery import ActiveReport, Surgery, active, operate
from .subnets.verification import Certificate, VerificationError
from .supernet import Supernet
from .trace.tracing import TraceError

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
