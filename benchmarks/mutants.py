"""Operators and numbers in product code, and each with another one in its place."""

import ast
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("decoding", "cli/decoding_cli", "evals/decoding_evals")
KINDS = {
    "comparison": {
        "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==",
        "is": "is not", "is not": "is", "in": "not in", "not in": "in",
    },
    "arithmetic": {"+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "**": "*"},
    "boolean": {"and": "or", "or": "and", "not": ""},
    "min, max": {"min": "max", "max": "min"},
}  # fmt: skip
OPERATORS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Pow: "**",
    ast.And: "and", ast.Or: "or",
}  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SKIPPED_FIELDS = ("annotation", "returns")


class Mutant(NamedTuple):
    """One change of a file."""

    file: str
    """Its path from the root of the repository."""
    start: int
    """Of what is replaced, as `end`: a place among the file's bytes."""
    end: int
    new: str
    kind: str
    lines: range
    """Those of the statement, without its body."""
    at_import: bool
    """Whether it runs when the module is imported."""

    def apply(self, source: bytes) -> bytes:
        """The file with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def difference(self, source: bytes) -> tuple[int, list[str], list[str]]:
        """The first line's number, and the lines that differ, before and after."""
        first, last = source.count(b"\n", 0, self.start), source.count(b"\n", 0, self.end)
        before, after = (
            text.decode().splitlines()[first : last + 1] for text in (source, self.apply(source))
        )
        return first + 1, before, after


def walk(
    node: ast.AST, lines: range = range(0), at_import: bool = True
) -> Iterator[tuple[ast.AST, range, bool]]:
    """Every node, with the lines of its statement and whether it runs at import.

    f-strings are left out: before Python 3.12, positions within them are those of another text.
    """
    if isinstance(node, ast.stmt):
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if body else node.end_lineno
        lines = range(node.lineno, max(node.lineno, last) + 1)
    yield node, lines, at_import
    for field, value in ast.iter_fields(node):
        inner = at_import and not (field == "body" and isinstance(node, FUNCTIONS))
        for child in value if isinstance(value, list) else [value]:
            skipped = field in SKIPPED_FIELDS or isinstance(child, ast.JoinedStr)
            if isinstance(child, ast.AST) and not skipped:
                yield from walk(child, lines, inner)


class Places:
    """Where the operators of a file stand; a place is the start and end among its bytes."""

    def __init__(self, source: bytes):
        self.source = source
        self.line_starts = [0, *(found.end() for found in re.finditer(rb"\n", source))]

    def start(self, node: ast.expr) -> int:
        return self.line_starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def between(self, left: ast.expr, right: ast.expr, operator: str) -> tuple[int, int]:
        """Between two operands stand the operator, spaces, brackets and comments alone."""
        start = self.end(left)
        gap = self.source[start : self.start(right)]
        gap = re.sub(rb"#[^\n]*", lambda comment: b" " * len(comment[0]), gap)
        found = re.search(r"\s+".join(map(re.escape, operator.split())).encode(), gap)
        assert found is not None, (gap, operator)
        return start + found.start(), start + found.end()

    def of(self, node: ast.AST) -> Iterator[tuple[int, int, str, str]]:
        """Start, end, kind, and what stands there; a number is of no kind of operator."""
        match node:
            case ast.Compare():
                operands = [node.left, *node.comparators]
                for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
                    yield self.swapped(left, right, OPERATORS[type(operator)])
            case ast.BoolOp():
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield self.swapped(left, right, OPERATORS[type(node.op)])
            case ast.BinOp() if type(node.op) in OPERATORS:
                yield self.swapped(node.left, node.right, OPERATORS[type(node.op)])
            case ast.AugAssign() if type(node.op) in OPERATORS:
                yield self.swapped(node.target, node.value, OPERATORS[type(node.op)])
            case ast.UnaryOp(op=ast.Not()):
                yield self.start(node), self.start(node) + 3, "boolean", "not"
            case ast.UnaryOp(op=ast.USub()):
                yield self.start(node), self.start(node) + 1, "arithmetic", ""
            case ast.Call(func=ast.Name(id="min" | "max") | ast.Attribute(attr="min" | "max")):
                end = self.end(node.func)
                yield end - 3, end, "min, max", self.source[end - 3 : end].decode()
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                yield self.start(node), self.end(node), "number", repr(node.value)

    def swapped(self, left: ast.expr, right: ast.expr, operator: str) -> tuple[int, int, str, str]:
        kind = next(kind for kind, swaps in KINDS.items() if operator in swaps)
        return *self.between(left, right, operator), kind, operator


def replacements(kind: str, old: str) -> list[str]:
    """What can stand in its place."""
    if kind == "number":
        number = ast.literal_eval(old)
        return [repr(other) for other in (number + 1, number - 1) if other != number]
    return [KINDS[kind].get(old, "")]


def mutants_of(file: str, source: bytes) -> Iterator[list[Mutant]]:
    """Each place of a file, with the changes that can be made there."""
    places = Places(source)
    for node, lines, at_import in walk(ast.parse(source)):
        for start, end, kind, old in places.of(node):
            changes = [
                Mutant(file, start, end, new, kind, lines, at_import)
                for new in replacements(kind, old)
            ]
            if changes:  # a large number may have none
                yield changes


def draw(root: Path, number: int, seed: int) -> list[Mutant]:
    """Changes at as many places, all alike probable."""
    every = [
        changes
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
        for changes in mutants_of(str(path.relative_to(root)), path.read_bytes())
    ]
    generator = random.Random(seed)
    return [generator.choice(changes) for changes in generator.sample(every, number)]
