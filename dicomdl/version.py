"""The version, in a separate file so that a build does not import the package."""

__version__ = "0.1.0"
