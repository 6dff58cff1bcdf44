"""From specs to stages: pure, no network, no GPU, nothing heavy imported."""
