"""Decoded stacks that are kept: on disk, or in memory that processes share."""
