"""The report: one page about an index, with pictures of its stacks."""
