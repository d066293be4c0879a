"""Text to CLIP token ids: exact, fast, offline, without torch."""
