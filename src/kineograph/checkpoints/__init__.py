"""Conversions between our layout, diffusers and original repositories."""
