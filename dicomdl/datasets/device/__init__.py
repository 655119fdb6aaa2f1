"""Decoding, rescale and intensities on a GPU."""
