from .depth import DepthUnit
from .drawing import graph_to_html, graph_to_svg
from .explanation import graph_to_dict, graph_to_dot
from .graph import DimGroup, Graph, build_graph

__all__ = [
    "DepthUnit",
    "DimGroup",
    "Graph",
    "build_graph",
    "graph_to_dict",
    "graph_to_dot",
    "graph_to_html",
    "graph_to_svg",
]
