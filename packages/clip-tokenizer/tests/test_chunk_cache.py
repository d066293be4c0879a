from __future__ import annotations

import random

from clip_tokenizer import Tokenizer
from clip_tokenizer.chunk_cache import LONGEST_KEPT, ChunkCache


def test_a_cached_chunk_is_computed_once():
    seen = []

    def encode(chunk):
        seen.append(chunk)
        return chunk.encode()

    cache = ChunkCache(encode, 100)
    assert [cache["a"], cache["b"], cache["a"]] == [b"a", b"b", b"a"]
    assert seen == ["a", "b"]


def test_memory_is_bounded_and_chunks_in_use_stay():
    computed = []

    def encode(chunk):
        computed.append(chunk)
        return b""

    cache = ChunkCache(encode, 10)
    for number in range(1000):
        cache[str(number)]
        cache["often"]
        assert cache.num_kept <= 20
    assert computed.count("often") == 1
    assert len(computed) == 1001


def test_a_long_chunk_is_not_kept():
    cache = ChunkCache(str.encode, 10)
    assert cache["x" * (LONGEST_KEPT + 1)] == b"x" * (LONGEST_KEPT + 1)
    assert cache.num_kept == 0
    assert cache["x" * LONGEST_KEPT]
    assert cache.num_kept == 1


def test_eviction_does_not_change_ids(openai, odd_strings):
    tiny = Tokenizer.openai(cache_size=3)
    texts = odd_strings.draw_strings(9, 300) * 2
    random.Random(0).shuffle(texts)
    assert tiny.encode_rows(texts).to_list() == openai.encode_rows(texts).to_list()
