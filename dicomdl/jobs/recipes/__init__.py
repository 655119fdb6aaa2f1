"""Recipes: what a data set is made of, in YAML, and how it is made.

`recipe` has the schema, `reading` reads a file of it, `named` finds those that come with dicomdl,
and `choosing` applies one to an index.
"""
