"""Stored values of single frames, native and compressed; the only package that calls codecs."""
