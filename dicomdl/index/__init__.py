"""Index: the tables that a scan writes, and views of them for people and workers.

The only package that imports pyarrow. It loads nothing that builds an index: every worker of a
DataLoader imports it.
"""
