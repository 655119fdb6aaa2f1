"""Mutants of a module: every small change of its code that a test should notice.

Docstrings, annotations, messages of errors, assertions and what only a type checker reads are left
as they are. An assignment is never removed, because the NameError that follows proves nothing.
"""

import ast
import copy
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
# Functions whose arguments may change places, or fail at once if they do.
_NOT_SWAPPED: Final = frozenset(
    {"max", "min", "maximum", "minimum", "array_equal", "isclose", "isinstance", "getattr", "cast"}
    | {"__setattr__"}
)
# Arguments that only check what the caller knows, or say how a warning is shown.
_IDLE_ARGUMENTS: Final = frozenset({"strict", "dtype", "divide", "invalid"})


@dataclass(slots=True)
class Mutant:
    """One change of a syntax tree: `parent.field` (or its item `index`) becomes `replacement`.

    `lines` are those of the changed expression, or of the head of the changed statement. `function`
    is the qualified name of the outermost function that holds the change; "" where the change is
    made when the module is imported.
    """

    kind: str
    parent: ast.AST
    field: str
    index: int | None
    replacement: ast.AST
    lines: range
    function: str
    text: str

    def apply(self) -> None:
        """Change the tree that the mutant is of."""
        if self.index is None:
            setattr(self.parent, self.field, self.replacement)
        else:
            getattr(self.parent, self.field)[self.index] = self.replacement

    def __str__(self) -> str:
        return f"{self.lines.start}: {self.kind}: {self.text}"


def mutants(tree: ast.Module) -> list[Mutant]:
    """Return all mutants of a module, in the order of its code."""
    return list(_Finder().found(tree, ""))


class _Finder:
    """The walk over a tree; it knows the statement that it is in."""

    def __init__(self) -> None:
        self.statement: ast.stmt = ast.Pass(lineno=1, end_lineno=1)

    def found(self, node: ast.AST, function: str, scope: str = "") -> Iterator[Mutant]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "bases", "decorator_list", "type_params"):
                continue
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(child, ast.AST) or _is_left(child, node, field):
                    continue
                if isinstance(child, ast.stmt):
                    self.statement = child
                for kind, replacement in _changes(child, node, field):
                    yield self._mutant(kind, node, field, index, child, replacement, function)
                inner_function, inner_scope = function, scope
                if isinstance(child, ast.ClassDef):
                    inner_scope = f"{scope}{child.name}."
                # Defaults of arguments belong to the scope around the function.
                if isinstance(child, ast.FunctionDef):
                    yield from self.found(child.args, function, scope)
                    self.statement = child
                    inner_function = function or scope + child.name
                    inner_scope = f"{scope}{child.name}.<locals>."
                if not isinstance(child, ast.arguments) or isinstance(node, ast.Lambda):
                    yield from self.found(child, inner_function, inner_scope)

    def _mutant(
        self,
        kind: str,
        parent: ast.AST,
        field: str,
        index: int | None,
        old: ast.AST,
        new: ast.AST,
        function: str,
    ) -> Mutant:
        ast.copy_location(new, old)
        place = old if hasattr(old, "lineno") else parent
        place = place if hasattr(place, "lineno") else self.statement
        last = place.end_lineno or place.lineno
        if isinstance(place, ast.If | ast.While | ast.For | ast.With | ast.Try):
            last = place.lineno
        text = f"{_shown(old)}  ->  {_shown(new)}"
        lines = range(place.lineno, last + 1)
        return Mutant(kind, parent, field, index, new, lines, function, text)


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else f"{text[:87]}..."


def _is_left(child: ast.AST, parent: ast.AST, field: str) -> bool:
    """Whether a node and all in it stay as they are."""
    if isinstance(child, ast.Import | ast.ImportFrom | ast.Assert | ast.JoinedStr | ast.Raise):
        # The removal of `raise` is found by the statement itself.
        return not isinstance(child, ast.Raise)
    if isinstance(parent, ast.Raise) or _is_error(child):
        return True
    if isinstance(child, ast.keyword):
        return child.arg in _IDLE_ARGUMENTS
    if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
        return True
    if isinstance(child, ast.FunctionDef):
        return child.name == "__repr__"
    if isinstance(child, ast.Assign):
        return any(isinstance(name, ast.Name) and name.id == "__slots__" for name in child.targets)
    if isinstance(child, ast.Subscript):
        return isinstance(child.value, ast.Name) and child.value.id == "Literal"
    if isinstance(child, ast.If):
        return isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
    return False


def _is_error(node: ast.AST) -> bool:
    """Whether a node makes an error: its message and facts are for people."""
    function = node.func if isinstance(node, ast.Call) else None
    return isinstance(function, ast.Name) and function.id.endswith(("Error", "TypeVar"))


def _changes(node: ast.AST, parent: ast.AST, field: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the changes of one node: what kind, and the node in its place."""
    if isinstance(node, ast.Compare):
        yield from _comparisons(node)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        operator = _OPERATORS[type(node.op)]()
        yield "arithmetic", ast.BinOp(node.left, operator, node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _OPERATORS:
        operator = _OPERATORS[type(node.op)]()
        yield "arithmetic", ast.AugAssign(node.target, operator, node.value)
        yield "removed", ast.Pass()
    elif isinstance(node, ast.UnaryOp):
        yield "unary", node.operand
    elif isinstance(node, ast.BoolOp):
        operator = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "boolean", ast.BoolOp(operator, node.values)
    elif isinstance(node, ast.Constant):
        yield from _constants(node, parent)
    elif isinstance(node, ast.Call):
        yield from _swaps(node)
    elif isinstance(node, ast.stmt):
        yield from _statements(node)
    if field in ("test", "ifs") and isinstance(node, ast.Name | ast.Call | ast.Attribute):
        yield "negated", ast.UnaryOp(ast.Not(), node)


def _swaps(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    if len(node.args) < 2 or name in _NOT_SWAPPED:
        return
    first, second, *others = node.args
    is_plain = not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred)
    if is_plain and ast.dump(first) != ast.dump(second):
        yield "swapped", ast.Call(node.func, [second, first, *others], node.keywords)


def _comparisons(node: ast.Compare) -> Iterator[tuple[str, ast.AST]]:
    for number, operator in enumerate(node.ops):
        for other in _COMPARISONS[type(operator)]:
            operators = [*node.ops]
            operators[number] = other()
            yield "comparison", ast.Compare(node.left, operators, node.comparators)


def _constants(node: ast.Constant, parent: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    value = node.value
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
        if isinstance(parent, ast.Compare):
            yield "constant", ast.Constant(value - 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(2 * value if value else 1.0)
    elif isinstance(value, str):
        yield "constant", ast.Constant(f"XX{value}XX")
    elif isinstance(value, bytes):
        yield "constant", ast.Constant(b"XX" + value)


def _statements(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Return):
        if node.value is not None and not _is_none(node.value):
            yield "returned", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr):
        if not isinstance(node.value, ast.Yield | ast.YieldFrom):
            yield "removed", ast.Pass()
    elif isinstance(node, ast.Assign):
        if any(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            yield "removed", ast.Pass()
    elif isinstance(node, ast.Raise | ast.Delete):
        yield "removed", ast.Pass()
    elif isinstance(node, ast.Continue):
        yield "removed", ast.Break()
    elif isinstance(node, ast.Break):
        yield "removed", ast.Continue()


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def compiled(tree: ast.Module, path: str) -> types.CodeType:
    """Compile a changed tree."""
    return compile(ast.fix_missing_locations(copy.deepcopy(tree)), path, "exec")


def code_of(module: types.CodeType, function: str) -> types.CodeType:
    """Return the code of a function by its qualified name."""
    waiting = [module]
    while waiting:
        code = waiting.pop()
        if code.co_qualname == function:
            return code
        waiting += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    raise LookupError(function)
