// The checking build: every access of a kernel to memory comes by here first.
//
// The kernels are compiled with -fsanitize=thread, which puts a call such as __tsan_read4(address) in front
// of each access, but they are linked to this file and not to the sanitizer's library. For each word of
// shared memory and each element of each array we keep who wrote and who read it last. Two accesses of one
// word, one of them a write, are a race unless something orders them: the same thread, a __syncthreads() or a
// warp barrier in between. That they came in a good order here means nothing.
//
// -fsanitize=bounds adds what addresses alone do not show: s[0][8] of s[8][8] is inside of s.
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
    void* code;  // where in the program
    int block, thread, epoch, warp_epoch;
};

struct Cell {
    Stamp writer, readers[2];  // two: then one of them is not the thread that writes next
};

struct Memory {
    char *begin, *end;
    int element;  // bytes a cell
    std::string name;
    std::vector<Cell> cells;

    bool holds(const char* at) const { return begin <= at && at < end; }
};

std::vector<Memory> arrays;
Memory shared;

int thread_number() { return current - fibers; }

// Whether nothing orders an access of this block, or of another, before this one.
bool unordered(const Stamp& before) {
    if (before.block == 0) return false;            // there was none
    if (before.block != block_number) return true;  // blocks run in any order
    if (before.thread == thread_number() || before.epoch != epoch) return false;
    bool same_warp = before.thread / WARP == thread_number() / WARP;
    return !(same_warp && before.warp_epoch != current->warp_epoch);
}

[[noreturn]] void fail_race(const Memory& memory, long index, bool writes, const Stamp& before,
                            const char* did, void* code) {
    const char* other = before.block == block_number ? "" : " of another block";
    fail("@%lx: race: thread %d %s %s[%ld], which thread %d%s %s at @%lx, with no barrier in between",
         place_in_library(code), thread_number(), writes ? "writes" : "reads", memory.name.c_str(), index,
         before.thread, other, did, place_in_library(before.code));
}

void visit(Memory& memory, long index, bool writes, void* code) {
    Cell& cell = memory.cells[index];
    Stamp now = {code, block_number, thread_number(), epoch, current->warp_epoch};
    if (&memory == &shared && cell.writer.block != block_number) {
        if (!writes)
            fail(
                "@%lx: thread %d reads word %ld of the shared memory, which no thread of the block has "
                "written so far",
                place_in_library(code), thread_number(), index);
        cell = {};  // what another block left behind
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
        place_in_library(code), thread_number(), place.block.x, place.block.y, place.block.z,
        writes ? "writes" : "reads", size, nearest->name.c_str(), index, count);
}

void access(void* address, int size, bool writes, void* code) {
    char* at = static_cast<char*>(address);
    Range stack = stack_of(*current);
    char* own = reinterpret_cast<char*>(&place);
    if ((stack.begin <= at && at < stack.end) || (own <= at && at < own + sizeof place)) return;
    Memory* memory = shared.holds(at) ? &shared : nullptr;
    for (Memory& array : arrays)
        if (array.holds(at)) memory = &array;
    if (!memory || at + size > memory->end) fail_bounds(at, size, writes, code);
    if (reinterpret_cast<std::uintptr_t>(at) % size)
        fail("@%lx: misaligned: thread %d %s %d bytes at %s[%ld], an address that is no multiple of %d",
             place_in_library(code), thread_number(), writes ? "writes" : "reads", size, memory->name.c_str(),
             long(at - memory->begin) / memory->element, size);
    for (long index = (at - memory->begin) / memory->element;
         index * memory->element < at + size - memory->begin; index++)
        visit(*memory, index, writes, code);
    // Counted as if each array began at an address of its own that is a multiple of 2^40: CuPy's begin at
    // multiples of 512.
    long number = memory == &shared ? 1 : memory - arrays.data() + 1;
    count_access(code, (number << 40) + (at - memory->begin), size, memory == &shared);
}

}  // namespace

long place_in_library(void* code) {
    Dl_info library;
    dladdr(code, &library);
    return static_cast<char*>(code) - static_cast<char*>(library.dli_fbase) - 1;
}

void forget_written(float4* place) {
    forget_count();  // of the NaN
    std::size_t first = (reinterpret_cast<char*>(place) - shared.begin) / shared.element;
    for (std::size_t index = first; index < first + 4; index++) shared.cells[index] = {};
}

}  // namespace emulator

// Called before a launch: the arrays that it is given, and nothing known about them.
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

#define CALL_OUTS(size)                                                                                  \
    void __tsan_read##size(void* at) { emulator::access(at, size, false, __builtin_return_address(0)); } \
    void __tsan_write##size(void* at) { emulator::access(at, size, true, __builtin_return_address(0)); }

extern "C" {
CALL_OUTS(1)
CALL_OUTS(2)
CALL_OUTS(4)
CALL_OUTS(8)
CALL_OUTS(16)
// Of a whole struct.
void __tsan_read_range(char* at, unsigned long size) {
    for (char* end = at + size; at < end; at += 4) emulator::access(at, 4, false, __builtin_return_address(0));
}
void __tsan_write_range(char* at, unsigned long size) {
    for (char* end = at + size; at < end; at += 4) emulator::access(at, 4, true, __builtin_return_address(0));
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __ubsan_handle_out_of_bounds(void*, void* index) {
    using namespace emulator;
    fail("@%lx: out of bounds: thread %d uses index %ld of an array that ends before",
         place_in_library(__builtin_return_address(0)), thread_number(), reinterpret_cast<long>(index));
}
}
