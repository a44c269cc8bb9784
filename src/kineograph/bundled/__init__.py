"""Models that run out of the box."""
