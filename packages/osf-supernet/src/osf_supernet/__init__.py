"""Weight-sharing supernets from any pretrained module."""
