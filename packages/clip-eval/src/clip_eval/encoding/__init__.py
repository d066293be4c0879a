"""Images and texts to embeddings: batches, encoder, cache, files."""
