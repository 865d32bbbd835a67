"""Synthetic videos in FPHA's layout: motion, renderer and writer."""
