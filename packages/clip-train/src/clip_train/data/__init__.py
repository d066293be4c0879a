"""What a step reads: sources, captions, decoded images, batches."""
