"""Samples for networks. The door to torch."""
