"""Whole networks: backbones, autoencoders, encoders, and the folder they travel in."""
