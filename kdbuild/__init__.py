"""kdbuild: make for distilled language models."""

__version__ = "0.1.0"
