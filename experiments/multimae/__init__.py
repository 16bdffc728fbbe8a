"""Multi-modal masked pre-training: RGB, depth and semantics of rooms."""
