// The checking build: checks every access of a kernel to memory.
//
// The kernels are compiled with -fsanitize=thread, which puts a call such as __tsan_read4(address) before
// each access, but they are linked to this file and not to the sanitizer's library. For each word of shared
// memory and each element of each array we record its last writer and readers. Two accesses to one word, one
// of them a write, are a race unless something orders them: the same thread, a __syncthreads() or a warp
// barrier in between. That their order is good here proves nothing.
//
// -fsanitize=bounds finds what addresses alone do not show: s[0][8] of s[8][8] is inside s.
#include "cuda.hpp"

#include <dlfcn.h>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "state.hpp"

namespace emulator {
namespace {

struct Stamp {
    void* code;  // address of the instruction
    int block, thread, epoch, warp_epoch, proxy_fences;
};

struct Cell {
    Stamp writer, readers[2];  // two, so that one of them is not the next writer
};

struct Memory {
    char *begin, *end;
    int element;  // bytes per cell
    std::string name;
    std::vector<Cell> cells;

    bool holds(const char* at) const { return begin <= at && at < end; }
};

std::vector<Memory> arrays;
Memory shared;

int thread_number() { return current - fibers; }

// True if nothing orders an earlier access, by this block or another, before this one.
bool unordered(const Stamp& before) {
    if (before.block == 0) return false;            // there is none
    if (before.block != block_number) return true;  // blocks run in any order
    if (before.thread == thread_number() || before.epoch != epoch) return false;
    bool same_warp = before.thread / WARP == thread_number() / WARP;
    return !(same_warp && before.warp_epoch != current->warp_epoch);
}

[[noreturn]] void fail_race(const Memory& memory, long index, bool writes, const Stamp& before,
                            const char* did, void* code) {
    const char* other = before.block == block_number ? "" : " of another block";
    fail("@%lx: race: thread %d %s %s[%ld], which thread %d%s %s at @%lx, with no barrier in between",
         offset_in_library(code), thread_number(), writes ? "writes" : "reads", memory.name.c_str(), index,
         before.thread, other, did, offset_in_library(before.code));
}

void visit(Memory& memory, long index, bool writes, void* code) {
    Cell& cell = memory.cells[index];
    Stamp now = {code, block_number, thread_number(), epoch, current->warp_epoch, current->proxy_fences};
    if (&memory == &shared && cell.writer.block != block_number) {
        if (!writes)
            fail(
                "@%lx: thread %d reads word %ld of the shared memory, which no thread of the block has "
                "written yet",
                offset_in_library(code), thread_number(), index);
        cell = {};  // left by another block
    }
    if (unordered(cell.writer)) fail_race(memory, index, writes, cell.writer, "wrote", code);
    if (writes) {
        for (const Stamp& reader : cell.readers)
            if (unordered(reader)) fail_race(memory, index, true, reader, "read", code);
        cell.writer = now;
    } else {
        cell.readers[unordered(cell.readers[0])] = now;
    }
}

[[noreturn]] void fail_bounds(const char* at, int size, bool writes, void* code) {
    const Memory* nearest = &shared;
    auto distance = [at](const Memory& memory) {
        return at < memory.begin ? memory.begin - at : at - memory.end + 1;
    };
    for (const Memory& array : arrays)
        if (distance(array) < distance(*nearest)) nearest = &array;
    long index = (at - nearest->begin) / nearest->element, count = nearest->cells.size();
    fail(
        "@%lx: out of bounds: thread %d of block (%u, %u, %u) %s %d bytes at %s[%ld], which has %ld elements",
        offset_in_library(code), thread_number(), indices.block.x, indices.block.y, indices.block.z,
        writes ? "writes" : "reads", size, nearest->name.c_str(), index, count);
}

void access(void* address, int size, bool writes, void* code) {
    char* at = static_cast<char*>(address);
    Range stack = stack_of(*current);
    char* own = reinterpret_cast<char*>(&indices);
    if ((stack.begin <= at && at < stack.end) || (own <= at && at < own + sizeof indices)) return;
    Memory* memory = shared.holds(at) ? &shared : nullptr;
    for (Memory& array : arrays)
        if (array.holds(at)) memory = &array;
    if (!memory || at + size > memory->end) fail_bounds(at, size, writes, code);
    if (reinterpret_cast<std::uintptr_t>(at) % size)
        fail("@%lx: misaligned: thread %d %s %d bytes at %s[%ld], an address that is no multiple of %d",
             offset_in_library(code), thread_number(), writes ? "writes" : "reads", size,
             memory->name.c_str(), long(at - memory->begin) / memory->element, size);
    for (long index = (at - memory->begin) / memory->element;
         index * memory->element < at + size - memory->begin; index++)
        visit(*memory, index, writes, code);
    // Counted as if each array began at its own multiple of 2^40. CuPy's begin at multiples of 512.
    long number = memory == &shared ? 1 : memory - arrays.data() + 1;
    count_access(code, (number << 40) + (at - memory->begin), size, memory == &shared, writes);
}

}  // namespace

long offset_in_library(void* code) {
    Dl_info library;
    dladdr(code, &library);
    return static_cast<char*>(code) - static_cast<char*>(library.dli_fbase) - 1;
}

void forget_written(float4* destination) {
    forget_count();  // of writing the NaN
    std::size_t first = (reinterpret_cast<char*>(destination) - shared.begin) / shared.element;
    for (std::size_t index = first; index < first + 4; index++) shared.cells[index] = {};
}

// A product reads through another path than threads do, the async proxy. It sees what a thread wrote after
// that thread's next fence.proxy.async. Of another thread's fence it knows after a barrier. A fence by the
// thread that multiplies would do on a GPU, too, but is not accepted here.
void check_read_by_product(const char* at, int size, void* code) {
    long first = (at - shared.begin) / shared.element;
    for (long index = first; index < first + size / shared.element; index++) {
        visit(shared, index, false, code);
        const Stamp& writer = shared.cells[index].writer;
        const Fiber& fiber = fibers[writer.thread];
        int fences = &fiber == current ? fiber.proxy_fences : fiber.fences_at_barrier;
        if (fences <= writer.proxy_fences)
            fail("@%lx: a product reads word %ld of the shared memory, which thread %d wrote at @%lx, with no "
                 "fence.proxy.async by that thread in between",
                 offset_in_library(code), index, writer.thread, offset_in_library(writer.code));
    }
    count_access(code, (1L << 40) + (at - shared.begin), size, true, false);
}

}  // namespace emulator

// Called before a launch, with its arrays. Forgets all earlier accesses.
extern "C" void check_arrays(int number, char** begins, const long* sizes, const int* elements,
                             const char** names) {
    using namespace emulator;
    Range range = shared_memory();
    std::size_t words = (range.end - range.begin + 3) / 4;
    shared = {range.begin, range.end, 4, "the shared memory", std::vector<Cell>(words)};
    arrays.clear();
    for (int i = 0; i < number; i++) {
        std::size_t count = sizes[i] / elements[i];
        arrays.push_back({begins[i], begins[i] + sizes[i], elements[i], names[i], std::vector<Cell>(count)});
    }
}

#define ACCESS_HOOKS(size)                                                                               \
    void __tsan_read##size(void* at) { emulator::access(at, size, false, __builtin_return_address(0)); } \
    void __tsan_write##size(void* at) { emulator::access(at, size, true, __builtin_return_address(0)); }

extern "C" {
ACCESS_HOOKS(1)
ACCESS_HOOKS(2)
ACCESS_HOOKS(4)
ACCESS_HOOKS(8)
ACCESS_HOOKS(16)
// Accesses to a whole struct.
void __tsan_read_range(char* at, unsigned long size) {
    for (char* end = at + size; at < end; at += 4)
        emulator::access(at, 4, false, __builtin_return_address(0));
}
void __tsan_write_range(char* at, unsigned long size) {
    for (char* end = at + size; at < end; at += 4) emulator::access(at, 4, true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __ubsan_handle_out_of_bounds(void*, void* index) {
    using namespace emulator;
    fail("@%lx: out of bounds: thread %d uses index %ld outside of an array",
         offset_in_library(__builtin_return_address(0)), thread_number(), reinterpret_cast<long>(index));
}
}
