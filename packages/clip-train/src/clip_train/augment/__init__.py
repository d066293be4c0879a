"""Augmentations of images on the device, given uniform numbers."""
