from .clip import CLIPOutput
from .measured_config import config_of
from .tower_output import TowerOutput

__all__ = ["CLIPOutput", "TowerOutput", "config_of"]
