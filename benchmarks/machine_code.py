"""Reads the machine code of a kernel, as NVIDIA's disassembler nvdisasm prints it.

`sections` splits a kernel into its main loop and the rest. What a section costs is counted by instruction:
how many a warp issues, on which units they run, how many bytes they move, how many loads are in flight.

A count is that of one pass through the section. An instruction of a branch that is not taken counts too, one
whose predicate is never true (``@!PT``) does not.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from tempfile import NamedTemporaryFile

# The units on which instructions run, by the beginnings of their names, of which the first that fits counts.
# All others, such as jumps, only take a turn to be issued.
_NAMES = {
    "special": "MUFU I2F F2I F2F. FRND",  # roots, and conversions between types of numbers
    "double": "DADD DMUL DFMA DSET",
    "fma": "FFMA FADD FMUL HFMA2",
    "imad": "IMAD",  # also moves numbers between registers
    "integer": "I VI LOP PLOP LEA SEL SHF PRMT MOV FSET FSEL FMNMX F2FP",
}
UNITS = {unit: tuple(names.split()) for unit, names in _NAMES.items()}
WARP = 32
_LINE = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\w+) )?\s*([\w.]+)\s*(.*?)\s*;")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")
_BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_MMA = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8}  # multiplications of a warp
_WARPGROUP = 4 * WARP


@dataclass(frozen=True)
class Instruction:
    """One line: its whole name, such as LDG.E.128, and its operands as they are printed."""

    name: str
    operands: str

    @property
    def bytes(self) -> int:
        """What an access to memory moves for one thread."""
        if self.name.startswith("LDSM"):  # matrices of 8×8, whose number ends the name
            return 4 * int(self.name.split(".")[-1])
        return next((_BYTES[part] for part in self.name.split(".") if part in _BYTES), 4)

    @property
    def unit(self) -> str | None:
        """The unit on which it runs."""
        return next((unit for unit, names in UNITS.items() if self.name.startswith(names)), None)

    def product(self) -> tuple[int, str]:
        """Return the multiplications of a warp in a product of matrices, and the type of their factors.

        Those of a warpgroup (HGMMA) are a type of their own, because they are faster.
        """
        unit, shape, *_, factors = self.name.split(".")
        if unit == "HMMA":
            return _MMA[shape], factors
        rows, columns, depth = map(int, shape.split("x"))
        return rows * columns * depth * WARP // _WARPGROUP, f"{factors} of warpgroups"

    @property
    def factor_bytes(self) -> int:
        """What a product of a warpgroup reads from shared memory, both factors, divided by its threads."""
        rows, columns, depth = map(int, self.name.split(".")[1].split("x"))
        return (rows + columns) * depth * 2 // _WARPGROUP

    def loaded(self) -> tuple[range, list[int]]:
        """Return the registers that it loads from global memory, if any, and those that it uses.

        Of an operand in several registers only the first counts, but both of an address of 64 bits.
        """
        found = re.findall(r"\bR(\d+)(\.64)?", self.operands)
        used = [int(number) + more for number, wide in found for more in range(2 if wide else 1)]
        if self.name.split(".")[0] != "LDG":
            return range(0), used
        target, *used = used
        return range(target, target + max(1, self.bytes // 4)), used


class Section(list[Instruction]):
    """Some instructions in order."""

    def named(self, *names: str) -> Section:
        """Return those with one of these names, whatever follows its first dot."""
        return Section(each for each in self if each.name.split(".")[0] in names)

    def bytes(self, *names: str) -> int:
        """Return the bytes that these move for one thread."""
        return sum(each.bytes for each in self.named(*names))

    def multiplications(self) -> dict[str, int]:
        """Return those of a warp: of FFMA, and on tensor cores, by the type of the factors."""
        found = {"FFMA": WARP * len(self.named("FFMA"))}
        for count, factors in (each.product() for each in self.named("HMMA", "HGMMA")):
            found[factors] = found.get(factors, 0) + count
        return found

    def waits(self) -> tuple[int, int]:
        """Return how often a warp waits for global memory, and the most loads that are then in flight.

        It waits where it uses one of the loads that it has issued since the last wait. Copies past the
        registers end in groups, one in each pass, of which DEPBAR leaves some in flight.
        """
        copies = len(self.named("LDGSTS"))
        pending: set[int] = set()
        waits = issued = most = 0
        for each in self:
            if copies and (left := re.match(r"SB0, 0x(\w+)", each.operands)):
                waits, most = waits + 1, max(most, copies * (int(left[1], 16) + 1))
            target, sources = each.loaded()
            if pending.intersection(sources):
                waits, most, issued, pending = waits + 1, max(most, issued), 0, set()
            issued += bool(target)
            pending.update(target)
        return (waits + 1, max(most, issued)) if pending else (waits, most)


@dataclass(frozen=True)
class Cost:
    """What a section costs a warp.

    Attributes
    ----------
    issued : int
        Instructions.
    units : dict of str to int
        The instructions of each unit.
    multiplications : dict of str to int
        See `Section.multiplications`.
    fetched : int
        Bytes that a thread loads from global memory, or copies from it.
    fetches : int
        In how many instructions.
    shared : int
        Bytes that a thread loads from shared memory, or stores there, and its share of what products read.
    waits, in_flight : int
        See `Section.waits`.
    """

    issued: int
    units: dict[str, int]
    multiplications: dict[str, int]
    fetched: int
    fetches: int
    shared: int
    waits: int
    in_flight: int


def cost(section: Section) -> Cost:
    """Count what a section costs."""
    fetches = section.named("LDG", "LDGSTS")
    return Cost(
        len(section),
        Counter(each.unit for each in section if each.unit),
        section.multiplications(),
        sum(each.bytes for each in fetches),
        len(fetches),
        section.bytes("LDS", "LDSM", "STS", "LDGSTS")
        + sum(each.factor_bytes for each in section.named("HGMMA")),
        *section.waits(),
    )


def kernels(cubin: bytes) -> dict[str, str]:
    """Disassemble all kernels of a file.

    Parameters
    ----------
    cubin : bytes
        Machine code, as NVRTC returns it.

    Returns
    -------
    dict of str to str
        The text of each kernel, by name.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        nvdisasm is missing: pip install nvidia-cuda-nvdisasm.
    """
    files = metadata.files("nvidia-cuda-nvdisasm") or ()
    (program,) = (file for file in files if file.stem == "nvdisasm")
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(program.locate()), "--print-code", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    _, *parts = text.split("\n.text.")
    return {part.partition(":")[0]: part for part in parts}


def parsed(text: str) -> tuple[Section, dict[str, int]]:
    """Return the instructions of a kernel that may run, and for each label the index of what follows it."""
    found, labels = Section(), {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        elif (match := _LINE.match(line)) and match[1] != "!PT" and match[2] != "NOP":
            found.append(Instruction(match[2], match[3]))
    return found, labels


def loops(text: str) -> Iterator[tuple[int, int]]:
    """Yield the first index of each loop, and that after its jump back."""
    found, labels = parsed(text)
    for index, each in enumerate(found):
        target = re.search(r"`\((\.L_x_\d+)\)", each.operands)
        # The jump to itself after a kernel's end is no loop.
        if each.name.split(".")[0] == "BRA" and target and labels.get(target[1], index) < index:
            yield labels[target[1]], index + 1


def sections(text: str) -> tuple[Section, Section]:
    """Split a kernel into the loop that multiplies most, or else loads most, and the rest.

    Without a loop that does either, the first section is empty.
    """
    found, _ = parsed(text)

    def work(loop: tuple[int, int]) -> tuple[int, int, int]:
        body = Section(found[slice(*loop)])
        return sum(body.multiplications().values()), len(body.named("LDG", "LDGSTS")), -len(body)

    first, last = max(loops(text), key=work, default=(0, 0))
    body = Section(found[first:last])
    if not body.named("LDG", "LDGSTS"):
        return Section(), found
    return body, Section([*found[:first], *found[last:]])


def resources(log: str) -> dict[str, tuple[int, int]]:
    """Return the registers of a thread and the shared memory of a block, by kernel, from ptxas's log."""
    entries = re.split(r"Compiling entry function '(\w+)'", log)[1:]
    return {
        name: (int(_first(r"Used (\d+) registers", text)), int(_first(r"(\d+) bytes smem", text)))
        for name, text in zip(entries[::2], entries[1::2], strict=True)
    }


def _first(pattern: str, text: str) -> str:
    found: Sequence[str] = re.findall(pattern, text)
    return found[0] if found else "0"
