"""python -m tests.campaigns.kernels: change one instruction of a kernel's PTX and see whether it is found.

The changed kernel runs the cases of `tests/helpers/ptx/cases.py` that execute the instruction. It is found if
the interpreter raises a Fault or a result is wrong. What is not found either makes no difference, such as
``<=`` for ``<`` where the two are never equal, or shows what the cases or the interpreter lack.

    python -m tests.campaigns.kernels --count 1000 --seed 0
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import ptx
from nvrtc import nvrtc
from oracle import assert_close
from ptx import launch, machine
from ptx.cases import CASES, Case
from ptx.parse import Instruction, Kernel

import tinyunet as tu
from tinyunet.backend.cuda import COMPILED_FOR, KERNEL_FOLDER, kernels_in
from tinyunet.backend.cuda_emulator import text_of

ARCHITECTURE = "sm_90"
MAX_STEPS = 40_000  # several times what the longest case takes
OUTCOMES = BY_CHECK, BY_RESULT, NOT_FOUND, NOT_EXECUTED = (
    "by a check",
    "by a result",
    "not found",
    "not executed",
)


@dataclass(frozen=True)
class Options:
    """Change instructions of the kernels; the exit status is 1 if more than --tolerated are not found."""

    count: int = 1000
    """Number of changes, drawn from all."""
    seed: int = 0
    only: int | None = None
    """Make this change alone."""
    kernel: str = ""
    """Change only kernels whose name contains this."""
    tolerated: float = 0.1
    """The share of changes that may not be found, because they make no difference."""


# The changes. Each function returns the changed instruction, or None where it does not apply.

OTHER = dict(lt="le", gt="ge", lo="ls", hi="hs", ltu="leu", gtu="geu", eq="ne", equ="neu", nan="num")
OTHER |= {"add": "sub", "min": "max", "and": "or", "shl": "shr"}
OTHER |= {other: name for name, other in OTHER.items()}
NOT_COMMUTATIVE = ("sub", "div", "rem", "selp")
ACCESSES = [(name, space) for name in ("ld", "st") for space in ("global", "shared")]
ORDERED = ("lt", "le", "gt", "ge", "lo", "ls", "hi", "hs")


def _left_out(instruction: Instruction) -> Instruction | None:
    """Leave an instruction out, but not the last of a kernel."""
    last = instruction.opcode[0] in ("ret", "exit") and instruction.guard is None
    return None if last else replace(instruction, opcode=("nop",), operands=(), guard=None)


def _inverted(instruction: Instruction) -> Instruction | None:
    return replace(instruction, negated=not instruction.negated) if instruction.guard else None


def _other_operation(instruction: Instruction) -> Instruction | None:
    name, *rest = instruction.opcode
    if name == "setp":
        return replace(instruction, opcode=(name, OTHER[rest[0]], *rest[1:])) if rest[0] in OTHER else None
    if name == "shl":
        rest = [rest[0].replace("b", "u")]
    return replace(instruction, opcode=(OTHER[name], *rest)) if name in OTHER else None


def _exchanged(instruction: Instruction) -> Instruction | None:
    name, operands = instruction.opcode[0], instruction.operands
    if name in ("mma", "ldmatrix"):
        place = 1 if name == "mma" else 0
        first, second, *rest = operands[place].strip("{}").split(",")
        changed = list(operands)
        changed[place] = f"{{{','.join([second, first, *rest])}}}"
        return replace(instruction, operands=tuple(changed))
    if name in NOT_COMMUTATIVE or (name == "setp" and instruction.opcode[1] in ORDERED):
        return replace(instruction, operands=(operands[0], operands[2], operands[1], *operands[3:]))
    return None


def _moved(instruction: Instruction) -> Instruction | None:
    """Move an address by what the instruction accesses."""
    opcode = instruction.opcode
    of_16_bytes = opcode[0] in ("cp", "ldmatrix") or "v4" in opcode
    if opcode[:3] != ("cp", "async", "cg") and opcode[0] != "ldmatrix" and opcode[:2] not in ACCESSES:
        return None
    width = 16 if of_16_bytes else int(opcode[-1][1:]) // 8
    place = next(i for i, text in enumerate(instruction.operands) if text.startswith("["))
    base, _, offset = instruction.operands[place].strip("[]").partition("+")
    changed = list(instruction.operands)
    changed[place] = f"[{base}+{int(offset or 0) + width}]"
    return replace(instruction, operands=tuple(changed))


def _one_more(instruction: Instruction) -> Instruction | None:
    """Make the first whole number larger by one."""
    for place, text in enumerate(instruction.operands):
        if text.lstrip("-").isdigit():
            changed = list(instruction.operands)
            changed[place] = str(int(text) + 1)
            return replace(instruction, operands=tuple(changed))
    return None


def _not_added(instruction: Instruction) -> Instruction | None:
    if instruction.opcode[0] not in ("fma", "mad"):
        return None
    zero = {"f32": "0f00000000", "f64": "0d0000000000000000"}.get(instruction.opcode[-1], "0")
    return replace(instruction, operands=(*instruction.operands[:3], zero))


CHANGES: dict[str, Callable[[Instruction], Instruction | None]] = {
    "left out": _left_out,
    "predicate inverted": _inverted,
    "another operation": _other_operation,
    "operands exchanged": _exchanged,
    "address moved": _moved,
    "a number plus one": _one_more,
    "a summand lost": _not_added,
}


@dataclass(frozen=True)
class Change:
    """One instruction of one kernel, changed."""

    source: str
    """The text of the kernel's file."""
    kernel: Kernel
    place: int
    name: str
    instruction: Instruction

    def __str__(self) -> str:
        original = self.kernel.code[self.place]
        return f"{self.kernel.name}, {original.line}: {self.name}: {original.text}"


def all_changes(kernel_name: str = "") -> Iterator[Change]:
    """Yield every change of the kernels whose name contains this."""
    for path in sorted(KERNEL_FOLDER.glob("*.cu")):
        names = [name for name in kernels_in(path) if kernel_name in name]
        source = text_of(path)
        architecture = COMPILED_FOR.get(path.stem, ARCHITECTURE)
        kernels = launch.module(source, architecture, launch.unchanged) if names else {}
        for kernel in map(kernels.__getitem__, names):
            for place, instruction in enumerate(kernel.code):
                for name, change in CHANGES.items():
                    if (changed := change(instruction)) is not None:
                        yield Change(source, kernel, place, name, changed)


class Kernels:
    """Runs cases with changed kernels."""

    def __init__(self) -> None:
        self._expected: dict[str, list[np.ndarray]] = {}
        self._reached: dict[str, dict[str, set[int]]] = {}
        self._modules = launch.module

    def outcome(self, change: Change) -> str:
        """Return one of OUTCOMES."""
        cases = [case for case in CASES if change.kernel.name in case.kernels.split()]
        executing = [case for case in cases if change.place in self._reached_by(case)[change.kernel.name]]
        for case in executing:
            outcome = self._run(case, change)
            if outcome != NOT_FOUND:
                return outcome
        return NOT_FOUND if executing else NOT_EXECUTED

    def _reached_by(self, case: Case) -> dict[str, set[int]]:
        if case.name not in self._reached:
            with ptx.interpreted(ARCHITECTURE) as interpretation:
                case.run()
            self._reached[case.name] = interpretation.reached
            self._expected[case.name] = case.expected()
        return self._reached[case.name]

    def _run(self, case: Case, change: Change) -> str:
        code = list(change.kernel.code)
        code[change.place] = change.instruction
        changed = replace(change.kernel, code=code)

        def module(source: str, *rest: object) -> dict[str, Kernel]:
            kernels = self._modules(source, *rest)
            return {**kernels, changed.name: changed} if source == change.source else kernels

        try:
            with patch.object(launch, "module", module), ptx.interpreted(ARCHITECTURE):
                results = case.run()
            for ours, expected in zip(results, self._expected[case.name], strict=True):
                assert_close(ours, np.asarray(expected, ours.dtype), case.name, case.tolerance)
        except ptx.Fault:
            return BY_CHECK
        except AssertionError:
            return BY_RESULT
        return NOT_FOUND


def campaign(options: Options) -> Counter[tuple[str, str]]:
    """Make the changes; print what was not found, and a table; return how often each came out how."""
    changes = list(all_changes(options.kernel))
    numbers = random.Random(options.seed).sample(range(len(changes)), min(options.count, len(changes)))
    kernels, outcomes = Kernels(), Counter[tuple[str, str]]()
    with tu.use_backend("cuda-emulated"), patch.object(machine, "MAX_STEPS", MAX_STEPS):
        for number in numbers if options.only is None else [options.only]:
            outcome = kernels.outcome(changes[number])
            outcomes[changes[number].name, outcome] += 1
            if outcome in (NOT_FOUND, NOT_EXECUTED):
                print(f"{outcome}: --only {number}: {changes[number]}", flush=True)
    print(" " * 20 + "".join(f"{outcome:>14}" for outcome in OUTCOMES))
    for name in CHANGES:
        print(f"{name:20}" + "".join(f"{outcomes[name, outcome]:14}" for outcome in OUTCOMES))
    return outcomes


def main(arguments: list[str] | None = None) -> None:
    """Parse the options and make the changes."""
    options = tyro.cli(Options, prog="python -m tests.campaigns.kernels", args=arguments)
    try:
        nvrtc()
    except pytest.skip.Exception as missing:
        sys.exit(str(missing))
    outcomes = campaign(options)
    missed = sum(outcomes[name, NOT_FOUND] for name in CHANGES)
    print(f"not found: {missed} of {outcomes.total()}, tolerated: {options.tolerated:.0%}")
    sys.exit(missed > options.tolerated * outcomes.total())


if __name__ == "__main__":
    main()
