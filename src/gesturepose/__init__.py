"""Collaborative gesture recognition and 3D hand pose estimation as a tracked, reproducible pipeline."""
