"""Editing of clips by inversion and attention."""
