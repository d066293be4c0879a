from .config import SearchConfig
from .drawing import draw_front
from .latency import LatencyTable
from .result import Candidate, SearchResult, pareto_front
from .search import search_subnets

__all__ = [
    "Candidate",
    "LatencyTable",
    "SearchConfig",
    "SearchResult",
    "draw_front",
    "pareto_front",
    "search_subnets",
]
