"""Sampling: from prompts to clips."""
