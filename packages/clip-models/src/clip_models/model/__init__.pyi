from .clip import count_parameters
from .measured_config import config_of
from .outputs import CLIPOutput, TowerOutput

__all__ = ["CLIPOutput", "TowerOutput", "config_of", "count_parameters"]
