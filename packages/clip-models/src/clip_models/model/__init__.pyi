from .clip import count_parameters
from .measured_config import infer_config
from .outputs import CLIPOutput, TowerOutput

__all__ = ["CLIPOutput", "TowerOutput", "count_parameters", "infer_config"]
