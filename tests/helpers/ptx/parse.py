"""Reads the text of a PTX module, as NVRTC writes it: one statement or directive per line."""

import math
import re
from dataclasses import dataclass, field

from ptx.fault import Fault

ENTRY = re.compile(r"\.entry (\w+)\((.*?)\)((?:\n\.[^\n]*)*)\n\{\n(.*?)\n\}", re.DOTALL)
VARIABLE = re.compile(
    r"(\.extern )?\.(shared|local|global|const) (?:\.align (\d+) )?\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?"
)
REGISTERS = re.compile(r"\.reg \.(\w+)\s+(.+)")
GUARDED = re.compile(r"@(!?)([%\w]+)\s+(.*)", re.DOTALL)
MOST_THREADS = 1024  # per block, on every GPU so far
BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


@dataclass(frozen=True)
class Instruction:
    """One statement: ``@%p1 ld.global.f32 %f1, [%rd1+4]``."""

    opcode: tuple[str, ...]
    """Its parts between the dots."""
    operands: tuple[str, ...]
    guard: str | None
    """The predicate register without which it does nothing."""
    negated: bool
    """Whether the guard has to be false."""
    text: str
    line: str
    """Where it comes from in the source, as file:line."""


@dataclass(frozen=True)
class Variable:
    """A variable in memory that is not an argument."""

    space: str
    size: int
    alignment: int


@dataclass
class Kernel:
    """A kernel of a module."""

    name: str
    architecture: int
    """The GPUs that it is made for: 90 is compute capability 9.0."""
    parameters: list[tuple[str, str]]
    """Names and types, in order."""
    variables: dict[str, Variable]
    most_threads: int
    """Per block, by ``__launch_bounds__``."""
    register_types: dict[str, str] = field(default_factory=dict)
    """By the register's name without its number."""
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text):
    """Return the kernels of a module by name."""
    target = re.search(r"^\.target sm_(\d+)", text, re.MULTILINE)
    if target is None:
        raise Fault("the text has no .target: it is not PTX")
    files = {
        number: path.rpartition("/")[2] for number, path in re.findall(r'\.file\s+(\d+) "([^"]+)"', text)
    }
    module = {}
    for line in text.splitlines():
        if line.startswith((".shared", ".extern", ".local", ".global", ".const")):
            module.update(_variable(line))
    kernels = {}
    for name, parameters, directives, body in ENTRY.findall(text):
        kernel = Kernel(
            name, int(target[1]), _parameters(parameters), dict(module), _most_threads(directives)
        )
        _read_body(kernel, body, files)
        kernels[name] = kernel
    return kernels


def _parameters(text):
    declared = [line.strip().rstrip(",").split() for line in text.strip().splitlines()]
    return [(words[-1], words[-2].lstrip(".")) for words in declared]


def _most_threads(directives):
    match = re.search(r"\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?", directives)
    return math.prod(int(n) for n in match.groups() if n) if match else MOST_THREADS


def _variable(line):
    match = VARIABLE.match(line)
    if match is None:
        raise Fault(f"the interpreter does not know this declaration: {line}")
    _, space, alignment, kind, name, count = match.groups()
    width = BYTES[re.sub(r"\D", "", kind)]
    return {name: Variable(space, width * int(count or (0 if count == "" else 1)), int(alignment or width))}


def _read_body(kernel, body, files):
    line = "?"
    for text in body.splitlines():
        text = text.partition("//")[0].strip()
        if label := re.match(r"([$\w]+):", text):
            kernel.labels[label[1]] = len(kernel.code)
            text = text[label.end() :].strip()
        if text.startswith((".loc ", ".loc\t")):
            _, number, row, *_ = text.split()
            line = f"{files.get(number, '?')}:{row}"
        elif text.startswith(".reg"):
            kernel.register_types.update(_register_types(text))
        elif text.startswith((".shared", ".local")):
            kernel.variables.update(_variable(text))
        elif not text.startswith((".pragma", "{", "}")):
            kernel.code += [_instruction(part.strip(), line) for part in text.split(";") if part.strip()]


def _register_types(text):
    kind, names = REGISTERS.match(text.rstrip(";")).groups()
    return {re.sub(r"<\d+>$", "", name.strip()): kind for name in names.split(",")}


def _instruction(text, line):
    guard, negated, rest = None, False, text
    if match := GUARDED.match(text):
        negated, guard, rest = bool(match[1]), match[2], match[3]
    opcode, *operands = rest.split(None, 1)
    return Instruction(
        tuple(opcode.split(".")), tuple(_split(operands[0]) if operands else ()), guard, negated, text, line
    )


def _split(text):
    """Split at the commas outside of braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text)]
