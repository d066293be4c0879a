"""In a child of the fork server: run `main(**VALUES)` of SCRIPT and send what it returns.

The names in capitals are set by `processes.py`.
"""

import os
import runpy
import traceback

import torch

os.environ.update(globals()["ENVIRONMENT"])
torch.set_num_threads(1)
try:
    result = runpy.run_path(globals()["SCRIPT"])["main"](**globals()["VALUES"])
except BaseException:
    globals()["SENDER"].send((False, traceback.format_exc()))
else:
    globals()["SENDER"].send((True, result))
