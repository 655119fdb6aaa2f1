"""`Listed`: the class of `Frame`, so that `help` shows its docstring and not its 150 fields.

`help` lists the names that `dir` of a class has, and the parameters of its constructor. A page of
the reference has the table of all fields. `dir` of a frame, and thereby completion, has them too.
"""

import inspect


class Listed(type):
    """A class whose own `dir` and signature leave out its fields."""

    def __dir__(cls) -> list[str]:
        fields = getattr(cls, "__dataclass_fields__", {})
        return [n for n in super().__dir__() if not n.startswith("_") and n not in fields]

    @property
    def __signature__(cls) -> inspect.Signature:
        """The signature that `help` shows: keywords alone."""
        facts = inspect.Parameter("facts", inspect.Parameter.VAR_KEYWORD)
        return inspect.Signature([facts])
