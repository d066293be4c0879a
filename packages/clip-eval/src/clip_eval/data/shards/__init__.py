"""Shards with random access: tars and TFRecords, indexed, on disk or behind a URL."""
