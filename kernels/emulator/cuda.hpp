// CUDA for a C++ compiler. With this header in front, an unchanged .cu file compiles with g++, and its
// kernels run on the CPU: one block after the other, the threads of a block taking turns on one core.
//
// This file has what a kernel sees: keywords, vector types, indices, barriers and shuffles. scheduler.cpp
// lets threads take turns. Parts of CUDA that no kernel here uses are left out on purpose.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#define CUDA_EMULATED  // functions of one PTX instruction have a second body for the emulator

#define __global__ __attribute__((noinline))
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Thread-local, so that the shared memory of a library is its block of thread-local storage. The dynamic
// loader knows its address and size, including variables in templates (scheduler.cpp: shared_memory).
#define __shared__ static thread_local

struct uint3 {
    unsigned x, y, z;
};
using dim3 = uint3;

struct __attribute__((aligned(8))) float2 {
    float x, y;
};
struct __attribute__((aligned(16))) float4 {
    float x, y, z, w;
};
struct __attribute__((aligned(8))) uint2 {
    unsigned x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

using std::min;

#define threadIdx (emulator::indices.thread)
#define blockIdx (emulator::indices.block)
#define blockDim (emulator::indices.block_size)
#define gridDim (emulator::indices.grid_size)

// The file and line of a barrier, for messages: #line directives give each line its file.
#define EMULATED_TEXT_OF(number) #number
#define EMULATED_TEXT(macro) EMULATED_TEXT_OF(macro)
#define EMULATED_LINE __FILE__ ":" EMULATED_TEXT(__LINE__)

#define __syncthreads() emulator::block_barrier(EMULATED_LINE)
#define __int_as_float(bits) emulator::number_of(bits)
#define __uint_as_float(bits) emulator::number_of(bits)
#define __float_as_uint(number) emulator::bits_of(number)
#define __cvta_generic_to_shared(pointer) emulator::shared_address(pointer)
#define __shfl_xor_sync(mask, value, bits) \
    emulator::shuffle(mask, value, emulator::lane() ^ (bits), EMULATED_LINE)

// The emulation itself is not checked (checks.cpp), neither arguments nor the values of a shuffle. Inlined
// into a checked function it would be.
#define UNCHECKED __attribute__((noinline, no_sanitize("thread")))

#include "tensor_cores.hpp"

namespace emulator {

struct Indices {
    uint3 thread, block;
    dim3 block_size, grid_size;
};
extern Indices indices;  // of the running thread

constexpr int WARP = 32;
int lane();                                          // of the running thread, 0 to 31
void block_barrier(const char* line);                // returns when all threads of the block have arrived
void warp_barrier(unsigned mask, const char* line);  // returns when all lanes of the mask have arrived
void* mailbox(int of_lane);                          // 64 bytes for each lane of this warp
[[noreturn]] void fail(const char* format, ...);

// All lanes write, then all read. The warp waits in between, and before the next write.
template <class T>
UNCHECKED T shuffle(unsigned mask, T value, int source, const char* line) {
    if (!(mask >> source & 1)) fail("%s: the shuffle reads lane %d, which is not in its mask", line, source);
    std::memcpy(mailbox(lane()), &value, sizeof(T));
    warp_barrier(mask, line);
    std::memcpy(&value, mailbox(source), sizeof(T));
    warp_barrier(mask, line);
    return value;
}

// cp.async: a copy that happens at any time before the thread's wait for it ends. Here it happens as late as
// possible, and until then its destination holds NaN. Copies come in groups; a wait leaves the last few
// groups pending.
void remember_copy(float4* to, const float4* from);  // null: zeros
bool next_copy(int groups_left, float4** to, const float4** from);
void end_group_of_copies();
void forget_written(float4* destination);  // for the checks: reading it now is too early

inline void copy_async(void* to, const void* from) {
    float nan = std::nanf("");
    float4 numbers = {nan, nan, nan, nan}, *destination = static_cast<float4*>(to);
    *destination = numbers;  // 16 bytes in one access, as the checks count them
    forget_written(destination);
    remember_copy(destination, static_cast<const float4*>(from));
}

inline void wait_for_copies(int groups_left) {
    float4* to;
    const float4* from;
    while (next_copy(groups_left, &to, &from)) {
        float4 numbers = {0, 0, 0, 0};
        if (from) numbers = *from;
        *to = numbers;
    }
}

inline unsigned bits_of(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float number_of(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// cvt.rna.tf32: round to the nearest number with 10 fraction bits, ties away from zero.
inline unsigned round_to_tf32(float value) { return (bits_of(value) + 0x1000) & 0xffffe000; }

// cvt.rn.bf16: round to the nearest number with 7 fraction bits, ties to even: the upper half of a float.
inline unsigned round_to_bf16(float value) {
    unsigned bits = bits_of(value);
    return value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// mma.sync: D (16×8) += A (16×K) · B (K×8), each distributed over the lanes as the PTX manual says (sections
// "Matrix fragments for mma.m16n8k8" and "…m16n8k16"). With g = lane / 4 and t = lane % 4, a register holds
// PER numbers that are adjacent along K, and a lane has
//   A: rows g, g+8, g, g+8, from column PER · t, the same, PER · (t+4), the same
//   B: rows from PER · t and PER · (t+4) of column g
//   D: row g of columns 2t, 2t+1; row g+8 of columns 2t, 2t+1
// number(bits, i) is the i-th number in a register.
template <int PER, class Number>
UNCHECKED void multiply_fragments(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                                  Number number, const char* line) {
    unsigned* own = static_cast<unsigned*>(mailbox(lane()));
    std::memcpy(own, a, sizeof a);
    std::memcpy(own + 4, b, sizeof b);
    warp_barrier(0xffffffff, line);
    for (int e = 0; e < 4; e++) {
        int row = lane() / 4 + e / 2 * 8, column = lane() % 4 * 2 + e % 2;
        float lefts[8 * PER], rights[8 * PER];
        for (int k = 0; k < 8 * PER; k++) {
            int t = k / PER % 4, half = k / PER / 4;
            const unsigned* left = static_cast<unsigned*>(mailbox(row % 8 * 4 + t));
            const unsigned* right = static_cast<unsigned*>(mailbox(column * 4 + t));
            lefts[k] = number(left[row / 8 + half * 2], k % PER);
            rights[k] = number(right[4 + half], k % PER);
        }
        constexpr int AT_ONCE = TENSOR_CORE.bytes_at_once * PER / 4;
        for (int k = 0; k < 8 * PER; k += AT_ONCE) d[e] = add_products(d[e], lefts + k, rights + k, AT_ONCE);
    }
    warp_barrier(0xffffffff, line);
}

inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             const char* line) {
    auto whole = [](unsigned bits, int) { return number_of(bits & 0xffffe000); };  // hardware ignores the rest
    multiply_fragments<1>(d, a, b, whole, line);
}

inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                              const char* line) {
    auto half = [](unsigned bits, int i) { return number_of(i ? bits & 0xffff0000 : bits << 16); };
    multiply_fragments<2>(d, a, b, half, line);
}

// The part of ldmatrix after each lane has read its row.
template <bool TRANSPOSED>
UNCHECKED void spread_rows(unsigned (&d)[4], const float4& own, const char* line) {
    std::memcpy(mailbox(lane()), &own, sizeof own);
    warp_barrier(0xffffffff, line);
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned short numbers[2];
        for (int i = 0; i < 2; i++) {
            int row = lane() / 4, column = lane() % 4 * 2 + i;
            if (TRANSPOSED) std::swap(row, column);
            numbers[i] = static_cast<unsigned short*>(mailbox(matrix * 8 + row))[column];
        }
        std::memcpy(&d[matrix], numbers, sizeof numbers);
    }
    warp_barrier(0xffffffff, line);
}

// ldmatrix: four 8×8 matrices of 16-bit numbers from shared memory (PTX manual, "ldmatrix"). Lane i has the
// address of row i % 8 of matrix i / 8, 16 bytes. With g = lane / 4 and t = lane % 4, its register for a
// matrix gets columns 2t and 2t+1 of row g, transposed rows 2t and 2t+1 of column g.
template <bool TRANSPOSED>
inline void load_matrices(unsigned (&d)[4], const void* row, const char* line) {
    float4 own = *static_cast<const float4*>(row);
    spread_rows<TRANSPOSED>(d, own, line);
}

// wgmma.mma_async: a warpgroup, four warps, multiplies matrices that lie in shared memory as descriptors say
// (warpgroups.cpp). Here a product reads its factors as late as possible, when a thread waits for it. Until then
// the sums that a thread has of the result are NaN.
//   sums      those of this thread: columns / 2
//   left      64×16, the rows along K or, transposed, the columns; right: 16×columns, transposed the rows along K
unsigned shared_address(const void* place);
void fence_registers(const char* line);
void fence_proxy();
void begin_product(float* sums, int columns, unsigned long long left, unsigned long long right,
                   bool left_transposed, bool right_transposed, const char* line);
void end_group_of_products(const char* line);
void wait_for_products(int groups_left, const char* line);

template <class... P, std::size_t... I>
UNCHECKED void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

template <class... P>
UNCHECKED void call(void (*kernel)(P...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>());
}

// Run the kernel for all threads of all blocks. Returns an error message, or null.
const char* launch(dim3 grid_size, dim3 block_size, void (*run)(void** arguments), void** arguments);

}  // namespace emulator

// The entry points for Python: one function per kernel, all with the same parameters.
#define EMULATED_KERNEL(name)                                                                               \
    extern "C" UNCHECKED const char* launch_##name(const dim3& grid, const dim3& block, void** arguments) { \
        return emulator::launch(                                                                            \
            grid, block, [](void** given) { emulator::call(name, given); }, arguments);                     \
    }
