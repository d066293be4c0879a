"""Names of models in other systems' commands."""

from __future__ import annotations

from clip_models import get_config, list_models

_MISNAMED = {  # in published scripts, whose repositories have no file of that name
    "ViT-H-14-CL8-Syntax-GAP": "ViT-H-14-CL8-SyntaxMask-GAP",
    "ViT-L-16-CL8-GAP": "ViT-L-16-CL8-Syntax-GAP",  # the same towers; captions are not reduced
}


def find_model(name: str) -> str:
    """Our name of a model.

    Raises:
        ConfigError: It is not known; the message names the nearest ones.
    """
    found = name if name in list_models() else _MISNAMED.get(name, name)
    get_config(found)
    return found
