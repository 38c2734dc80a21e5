"""Dreamrun: world models that anyone can train and play."""
