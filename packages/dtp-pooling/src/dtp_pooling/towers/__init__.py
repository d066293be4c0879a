"""Token pooling inside image and text towers."""
