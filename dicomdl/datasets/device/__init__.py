"""Decoding and intensities on a GPU."""
