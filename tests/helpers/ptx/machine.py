"""Threads, warps and blocks: which instruction which threads execute next.

Each thread has a program counter. The threads with the lowest one run until they branch, wait, end or come to
a label, where others may be. So threads that took different branches meet again as early as they can; a
kernel may rely only on what it waits for. Threads that the last warp lacks have ended from the start.
"""

import numpy as np

from ptx.arithmetic import bind, unknown
from ptx.fault import Fault
from ptx.memory import Window
from ptx.races import EPOCHS, Stamp
from ptx.registers import TYPES, Registers
from ptx.tensor_cores import WARP
from ptx.transfers import CopyQueue, bind_matrices, bind_transfer
from ptx.warpgroups import ProductQueue

READY, AT_BARRIER, AT_COLLECTIVE, DONE = range(4)
FULL = (1 << WARP) - 1
NOTHING_TO_DO = ("membar", "fence", "nop", "prefetch", "pragma")
MAX_STEPS = 300_000  # instructions: more is a loop without end


class Machine:
    """Some blocks of a launch.

    Parameters
    ----------
    kernel : Kernel
    arrays : Arrays
    parameters : dict of str to NumPy scalar
    grid, block : tuple of three int
    blocks : range
        The numbers of the blocks, of which x grows fastest.
    dynamic : int
        Bytes of shared memory beyond the declared.
    reached : set of int
        Takes the numbers of the instructions that some thread executed.
    """

    def __init__(self, kernel, arrays, parameters, grid, block, blocks, dynamic, reached):
        self.kernel, self.arrays, self.parameters, self.reached = kernel, arrays, parameters, reached
        self.block_threads = int(np.prod(block))
        room = -(-self.block_threads // WARP) * WARP
        self.threads = len(blocks) * room
        number = np.arange(self.threads)
        self.in_block = number % room
        self.block = number // room
        self.warp = number // WARP
        self.exists = self.in_block < self.block_threads
        self.epoch = np.array(blocks, int) << EPOCHS
        self.warp_epoch = np.zeros(self.threads, int)
        self.first_thread = blocks.start * room
        self.shared = Window(kernel.variables, "shared", self.block, dynamic)
        self.local = Window(kernel.variables, "local", number)
        self.registers = Registers(
            kernel, self.threads, self._special(grid, block, blocks), self.shared.symbols | self.local.symbols
        )
        self.registers.architecture = kernel.architecture
        self.copies, self.products = CopyQueue(self), ProductQueue(self)
        self.proxy_fences, self.fences_at_barrier = np.zeros((2, self.threads), int)
        self.pc = np.zeros(self.threads, int)
        self.state = np.where(self.exists, READY, DONE)
        self.labels = set(kernel.labels.values())
        self.program = [self._bound(instruction) for instruction in kernel.code]

    def _special(self, grid, block, blocks):
        """Return the registers that say which thread this is."""
        numbers = np.array(blocks)[self.block]
        axes = zip("xyz", np.cumprod([1, *grid[:2]]), np.cumprod([1, *block[:2]]), grid, block, strict=True)
        special = {"%laneid": self.in_block % WARP, "%warpid": self.in_block // WARP}
        for axis, blocks_before, threads_before, blocks_along, threads_along in axes:
            special[f"%tid.{axis}"] = self.in_block // threads_before % threads_along
            special[f"%ctaid.{axis}"] = numbers // blocks_before % blocks_along
            special[f"%ntid.{axis}"] = np.full(self.threads, threads_along)
            special[f"%nctaid.{axis}"] = np.full(self.threads, blocks_along)
        return special

    def _bound(self, instruction):
        """Return the function that runs an instruction, or None where the machine itself does."""
        name = instruction.opcode[0]
        if name in CONTROL or instruction.opcode[:2] == ("bar", "warp") or name == "barrier":
            return None
        if instruction.opcode[:3] == ("fence", "proxy", "async"):
            return self._fence_proxy
        if name in NOTHING_TO_DO:
            return lambda where: None
        try:
            if name in ("ld", "ldu", "st"):
                return bind_transfer(instruction, self)
            if instruction.opcode[:2] == ("cp", "async"):
                return self.copies.bind(instruction)
            if name == "wgmma":
                return self.products.bind(instruction)
            if name == "ldmatrix":
                return bind_matrices(instruction, self)
            if name == "shfl":
                return self._bind_shuffle(instruction)
            return bind(instruction, self.registers)
        except Fault as fault:
            raise self._located(fault, instruction) from None

    def lanes(self, where):
        """Return the numbers of the threads that take part."""
        return np.flatnonzero(self.exists if where is True else where)

    def stamp(self, lanes):
        """Return who these threads are and what they have passed."""
        first = self.first_thread
        return Stamp(
            first + lanes,
            first // WARP + self.warp[lanes],
            self.epoch[self.block[lanes]],
            self.warp_epoch[lanes],
            self.proxy_fences[lanes],
        )

    def _fence_proxy(self, where):
        self.proxy_fences[self.lanes(where)] += 1

    def fences_known_to(self, writers, readers):
        """Return how many ``fence.proxy.async`` of writers their readers know of."""
        index = writers - self.first_thread  # they know of their own, and of others' before a barrier
        return np.where(writers == readers, self.proxy_fences[index], self.fences_at_barrier[index])

    def run(self):
        """Run until all threads have ended, or raise a Fault."""
        steps = 0
        while True:
            ready = self.state == READY
            if not ready.any():
                if (self.state == DONE).all():
                    return self.products.check_all_took_part()
                self._release()
                continue
            pc = self.pc[ready].min()
            steps += self._run_from(int(pc), ready & (self.pc == pc))
            if steps > MAX_STEPS:
                raise Fault(f"{self.kernel.name} has not ended after {steps} instructions")

    def _run_from(self, pc, lanes):
        """Run straight on with these threads; return the number of instructions."""
        start, everyone = pc, self._or_true(lanes)
        while True:
            instruction = self.kernel.code[pc]
            where = self._guarded(instruction, everyone)
            self.reached.add(pc)
            try:
                if self.program[pc] is None:
                    self.pc[lanes] = pc
                    CONTROL[instruction.opcode[0]](self, instruction, lanes, where)
                    return pc + 1 - start
                if instruction.opcode[0] in COLLECTIVE:
                    lanes = self._gathered(instruction, pc, lanes, instruction.opcode[0] in WHOLE)
                    if not lanes.any():
                        return pc + 1 - start
                    where = everyone = self._or_true(lanes)
                if where is True or where.any():
                    self.program[pc](where)
            except Fault as fault:
                raise self._located(fault, instruction) from None
            pc += 1
            if pc in self.labels:
                self.pc[lanes] = pc
                return pc - start

    def _or_true(self, lanes):
        """Return True in place of all threads: NumPy is faster without a mask."""
        return True if np.array_equal(lanes, self.exists) else lanes

    def _located(self, fault, instruction):
        return Fault(f"{self.kernel.name}, {instruction.line}: {fault}\n  {instruction.text}")

    def _guarded(self, instruction, where):
        """Return which of the threads execute the instruction by its predicate."""
        if instruction.guard is None:
            return where
        predicate = self.registers.source(instruction.guard, TYPES["pred"])
        return (~predicate if instruction.negated else predicate) & (self.exists if where is True else where)

    # Branches and ends

    def _branch(self, instruction, lanes, where):
        self.pc[lanes] += 1
        if instruction.operands[-1] not in self.kernel.labels:
            raise unknown(instruction)
        self.pc[self.lanes(where)] = self.kernel.labels[instruction.operands[-1]]

    def _end(self, instruction, lanes, where):
        self.pc[lanes] += 1
        self.state[self.lanes(where)] = DONE

    def _trap(self, instruction, lanes, where):
        if len(self.lanes(where)):
            raise Fault("the kernel stops itself")
        self.pc[lanes] += 1

    # Barriers

    def _barrier(self, instruction, lanes, where):
        """Wait at ``bar.sync 0`` for the block, or at ``bar.warp.sync`` for a warp."""
        if instruction.opcode[1] == "warp":
            ready = self._gathered(instruction, int(self.pc[lanes][0]), lanes, False)
            self.warp_epoch[ready] += 1
            self.pc[ready] += 1
            return
        if "sync" not in instruction.opcode or len(instruction.operands) != 1:
            raise unknown(instruction)
        waits = np.zeros(self.threads, bool)
        waits[self.lanes(where)] = True
        self.pc[lanes & ~waits] += 1
        self.state[waits] = AT_BARRIER

    def _release(self):
        """Open the barriers of all blocks. No thread is ready: what has not arrived now never will."""
        by_block = self.state.reshape(len(self.epoch), -1)[:, : self.block_threads]
        counters = self.pc.reshape(by_block.shape[0], -1)[:, : self.block_threads]
        for states, at in zip(by_block, counters, strict=True):
            if (states == DONE).all():
                continue
            if (states == AT_COLLECTIVE).any():
                thread = int(np.argmax(states == AT_COLLECTIVE))
                raise self._stuck(
                    at[thread], f"thread {thread} waits for lanes of its warp that do not arrive"
                )
            waiting = int(np.argmax(states == AT_BARRIER))
            others = np.flatnonzero((states != AT_BARRIER) | (at != at[waiting]))
            if len(others):
                other = int(others[0])
                ended = states[other] == DONE
                where = (
                    "ended without reaching it" if ended else f"waits at {self.kernel.code[at[other]].line}"
                )
                raise self._stuck(at[waiting], f"divergent barrier: thread {other} {where}")
        self.epoch += 1
        self.fences_at_barrier[:] = self.proxy_fences
        arrived = self.state == AT_BARRIER
        self.pc[arrived] += 1
        self.state[arrived] = READY

    def _stuck(self, pc, what):
        return self._located(Fault(what), self.kernel.code[pc])

    # What a warp does together

    def _gathered(self, instruction, pc, lanes, whole):
        """Return the threads whose fellows have all arrived here. The others wait for theirs."""
        if instruction.guard is not None:
            raise unknown(instruction)
        lanes = lanes | ((self.state == AT_COLLECTIVE) & (self.pc == pc))
        mask = self._mask(instruction, whole)
        lane = self.in_block % WARP
        strangers = lanes & (mask >> lane & 1 == 0)
        if strangers.any():
            raise Fault(
                f"lane {lane[strangers][0]} is not in the mask {mask[strangers][0]:08x} that it passes"
            )
        present = (lanes.astype(np.int64) << lane).reshape(-1, WARP).sum(axis=1)[self.warp]
        complete = lanes & (present & mask == mask)
        waiting = lanes & ~complete
        self.state[waiting], self.pc[waiting] = AT_COLLECTIVE, pc
        self.state[complete], self.pc[complete] = READY, pc
        return complete

    def _mask(self, instruction, whole):
        if whole:
            return np.full(self.threads, FULL)
        mask = self.registers.source(instruction.operands[-1], TYPES["u32"])
        return np.broadcast_to(mask, self.threads).astype(np.int64)

    def _bind_shuffle(self, instruction):
        """Bind ``shfl.sync``: a lane gets the value of another (PTX ISA, "shfl.sync")."""
        kind = instruction.opcode[2]
        d, *predicate = instruction.operands[0].split("|")
        target = self.registers.target(d, TYPES["b32"])
        predicates = [self.registers.target(name, TYPES["pred"]) for name in predicate]
        value, b, c, mask = (self.registers.source(text, TYPES["u32"]) for text in instruction.operands[1:5])

        def run(where):
            lane = self.in_block % WARP
            by, ends = (np.broadcast_to(x, self.threads).astype(int) for x in (b, c))
            segment = ends >> 8 & 31
            last = lane & segment | ends & 31 & ~segment
            by &= 31
            source = {
                "bfly": lane ^ by,
                "down": lane + by,
                "up": lane - by,
                "idx": lane & segment | by & ~segment,
            }
            source = source[kind]
            valid = source >= last if kind == "up" else source <= last
            source = np.where(valid, source, lane)
            masks = np.broadcast_to(mask, self.threads).astype(np.int64)
            outside = where & (masks >> source & 1 == 0)
            if outside.any():
                raise Fault(f"the shuffle reads lane {source[outside][0]}, which is not in its mask")
            values = np.broadcast_to(value, self.threads)[self.warp * WARP + source]
            np.copyto(target, values, where=where)
            for name in predicates:
                np.copyto(name, valid, where=where)

        return run


CONTROL = {
    "bra": Machine._branch,
    "ret": Machine._end,
    "exit": Machine._end,
    "trap": Machine._trap,
    "bar": Machine._barrier,
    "barrier": Machine._barrier,
}
WHOLE = ("mma", "ldmatrix", "wgmma")  # executed by all lanes of a warp
COLLECTIVE = ("shfl", *WHOLE)
