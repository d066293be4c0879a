from .checking import check_graph, load_graph
from .encoders import ImageEncoder, TextEncoder
from .exporters import export_model

__all__ = ["ImageEncoder", "TextEncoder", "check_graph", "export_model", "load_graph"]
