"""What a scan concluded, as people and workers see it. The door to pyarrow."""
