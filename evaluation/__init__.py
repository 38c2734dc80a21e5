"""Evaluation of checkpoints against the real game."""
