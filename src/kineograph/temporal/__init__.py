"""The time axis: temporal layers and where they enter an image network."""
