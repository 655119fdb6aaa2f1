"""Annotations on the grid of an image: segmentations, structure sets, doses, masks in files."""
