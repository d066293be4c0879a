"""An index of many embeddings on disk, by faiss: approximate, and fast for millions.

Legend: N embeddings, Q queries, D width, K best.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_eval.data.storage import atomic_path
from clip_eval.encoding.cache import digest_parts
from clip_eval.errors import EvaluationError
from clip_eval.results.files import read_json, write_json

NEIGHBORS = 32
BUILD_DEPTH = 200
SEARCH_DEPTH = 128


class FaissIndex:
    """A graph of nearest neighbours (HNSW, arXiv 1603.09320) over unit vectors.

    Args:
        index: The index of faiss.
    """

    def __init__(self, index: Any) -> None:
        self.index = index

    @classmethod
    def open(cls, path: Path, features: NDArray[np.float32]) -> FaissIndex:
        """Read the index of these embeddings (N, D), or build it where there is no file yet.

        A JSON file beside it says which embeddings it is of.

        Raises:
            EvaluationError: faiss is missing, or the file is damaged or of other embeddings.
        """
        faiss = _faiss()
        digest = digest_parts(str(features.shape), features.tobytes()).hex()
        about = path.with_name(f"{path.name}.json")
        if not path.exists():
            index = cls(_build(faiss, features))
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(faiss.serialize_index(index.index).data)
            write_json(about, {"embeddings": digest, "faiss": faiss.__version__})
            return index
        if read_json(about).get("embeddings") != digest:
            raise EvaluationError(
                f"{path} is the index of other embeddings; name another file for --index, which "
                "is then built"
            )
        try:
            index = cls(faiss.read_index(str(path)))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise EvaluationError(f"{path} is no index of faiss: {reason}") from None
        if (index.index.ntotal, index.index.d) != features.shape:
            raise EvaluationError(f"{path} is damaged; remove it to build it again")
        return index

    def search(
        self, queries: NDArray[np.float32], limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Find the best embeddings of each query (Q, D): their numbers and scores, (Q, K)."""
        self.index.hnsw.efSearch = max(SEARCH_DEPTH, 2 * limit)
        scores, items = self.index.search(np.ascontiguousarray(queries), limit)
        return items, scores


def _build(faiss: Any, features: NDArray[np.float32]) -> Any:
    index = faiss.IndexHNSWFlat(features.shape[1], NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD_DEPTH
    index.add(features)
    return index


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise EvaluationError(
            "an index on disk needs faiss; pip install clip-eval[faiss], or search without --index"
        ) from error
