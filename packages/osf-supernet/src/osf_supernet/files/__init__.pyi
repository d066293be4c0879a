from .hub import pull_from_hub, pull_supernet_from_hub, push_to_hub

__all__ = ["pull_from_hub", "pull_supernet_from_hub", "push_to_hub"]
