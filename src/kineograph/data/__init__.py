"""Data sets: manifest, the emoji, decoded frames and latents on disk, importers, checks."""
