"""Whole jobs over files or an index, run by people, engines and the command line."""
