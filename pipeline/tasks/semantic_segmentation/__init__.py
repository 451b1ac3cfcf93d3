"""Semantic segmentation: an image, and a class for each of its pixels."""
