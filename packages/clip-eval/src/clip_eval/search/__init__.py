"""Search among embedded images by words or by an image."""
