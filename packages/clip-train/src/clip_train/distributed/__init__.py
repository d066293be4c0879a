"""Where training runs: one process, several under torchrun, or XLA."""

from clip_train.distributed.choice import BACKENDS, open_backend
from clip_train.distributed.protocol import Backend, BackendError
from clip_train.distributed.single import SingleBackend

__all__ = ["BACKENDS", "Backend", "BackendError", "SingleBackend", "open_backend"]
