"""Index: the tables that a scan writes, and views of them for people and workers.

The only package that imports pyarrow. Every worker of a DataLoader imports it, so it loads neither
the header reader nor the builder of stacks nor a job.
"""
