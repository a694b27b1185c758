// What the rungs of conv2d on tensor cores share: instructions, the stages of tiles, and which warp has which
// results. The file that includes this says before how large the tiles are: TILE_ROWS, TILE_COLUMNS, STAGES
// and STAGE_DEPTH.
//
// Each PTX instruction has its own function, with a second body for the CPU.

// Two numbers in one register, the first in the lower half.
__device__ __forceinline__ unsigned to_bf16(float first, float second) {
#ifdef CUDA_EMULATED
    return emulator::round_to_bf16(first) | emulator::round_to_bf16(second) << 16;
#else
    unsigned rounded;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(rounded) : "f"(second), "f"(first));
    return rounded;
#endif
}

__device__ __forceinline__ void multiply_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUDA_EMULATED
    emulator::mma_m16n8k8_tf32(d, a, b, EMULATED_LINE);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ void multiply_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUDA_EMULATED
    emulator::mma_m16n8k16_bf16(d, a, b, EMULATED_LINE);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Begin to copy 16 bytes to shared memory, from an array of numbers.
template <class Number>
__device__ __forceinline__ void copy_16_bytes(Number& to, const Number* from, Offset offset) {
#ifdef CUDA_EMULATED
    emulator::copy_async(&to, offset.exists ? from + offset.value : nullptr);
#else
    unsigned address = __cvta_generic_to_shared(&to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address),
                 "l"(from + (offset.exists ? offset.value : 0)), "r"(offset.exists ? 16 : 0)
                 : "memory");
#endif
}

__device__ __forceinline__ void end_group_of_copies() {
#ifdef CUDA_EMULATED
    emulator::end_group_of_copies();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Wait until all but the last GROUPS groups of this thread's copies have arrived.
template <int GROUPS>
__device__ __forceinline__ void wait_for_copies() {
#ifdef CUDA_EMULATED
    emulator::wait_for_copies(GROUPS);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#endif
}

// Each warp has 64×32 of the block's results: 4×4 pieces of 16×8, with four numbers of each per lane.
struct Pieces {
    float sum[4][4][4];
};
constexpr int WARPS_ACROSS = TILE_COLUMNS / 32;
__device__ __forceinline__ int warp_row() { return threadIdx.x / 32 / WARPS_ACROSS * 64; }
__device__ __forceinline__ int warp_column() { return threadIdx.x / 32 % WARPS_ACROSS * 32; }

// fetch(stage, depth) begins to copy the tiles at this depth, each time STAGE_DEPTH further; use(stage)
// multiplies them.
template <class Fetch, class Use>
__device__ __forceinline__ void run_stages(int first, int last, Fetch fetch, Use use) {
    int fetched = 0, used = 0;
    for (; fetched < STAGES - 1; fetched++) {
        fetch(fetched, first + fetched * STAGE_DEPTH);
        end_group_of_copies();
    }
    for (int depth = first; depth < last; depth += STAGE_DEPTH) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();  // these tiles are complete, and those before them may be replaced
        fetch(fetched, depth + (STAGES - 1) * STAGE_DEPTH);
        end_group_of_copies();
        use(used);
        fetched = fetched == STAGES - 1 ? 0 : fetched + 1;
        used = used == STAGES - 1 ? 0 : used + 1;
    }
    wait_for_copies<0>();
}
