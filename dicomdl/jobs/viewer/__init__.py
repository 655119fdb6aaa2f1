"""A local page that shows stacks: the server behind `dicomdl view`, and what it sends."""
