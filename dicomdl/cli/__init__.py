"""The command `dicomdl`: one file per command, and the only package that prints."""
