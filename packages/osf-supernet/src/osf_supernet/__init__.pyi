from .counting import count_parameters
from .files.folders import load_subnet, load_supernet, save_subnet, save_supernet
from .loadable import loadable_space
from .pruning import prune
from .search.config import SearchConfig
from .search.latency import LatencyTable
from .search.result import SearchResult
from .search.search import search_subnets
from .subnets.space import Choice, Space, ratios, sizes
from .subnets.verification import Certificate, VerificationError
from .supernet import Supernet
from .trace.tracing import TraceError

__all__ = [
    "Certificate",
    "Choice",
    "LatencyTable",
    "SearchConfig",
    "SearchResult",
    "Space",
    "Supernet",
    "TraceError",
    "VerificationError",
    "count_parameters",
    "load_subnet",
    "load_supernet",
    "loadable_space",
    "prune",
    "ratios",
    "save_subnet",
    "save_supernet",
    "search_subnets",
    "sizes",
]
