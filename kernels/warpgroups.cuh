// Products of matrices by warpgroups (wgmma), which only GPUs of compute capability 9.0 have: a file that
// includes this is compiled for sm_90a.
//
// The four warps of a warpgroup multiply 64×16 numbers by 16×COLUMNS and add the result to sums in their
// registers. The factors stay in shared memory, and the product is asynchronous: threads go on at once, and
// wait before they read the sums or write to the factors. Tensor cores read shared memory through another
// path than threads do, the async proxy, which sees writes of a thread after the thread's next fence_proxy.
//
// Each PTX instruction has its own function, with a second body for the CPU.

constexpr int WARPGROUP = 128;

// Where a matrix lies in shared memory (PTX manual, "Matrix Descriptor Format"). It consists of pieces of
// eight rows, each of 64 or 128 bytes, in which chunks of 16 bytes have exchanged places (`Tile`). In a row
// are neighbours along K or, of a transposed matrix, along the other axis. Then the bytes of `leading` lead
// from one piece to the next along that axis. Those of `stride` lead to the next eight rows.
template <int ROW_BYTES>
__device__ __forceinline__ unsigned long long descriptor_of(const unsigned short& first, int leading,
                                                            int stride) {
    static_assert(ROW_BYTES == 64 || ROW_BYTES == 128, "a row has 64 or 128 bytes");
    constexpr unsigned long long SWIZZLE = ROW_BYTES == 64 ? 2 : 1;
    unsigned address = __cvta_generic_to_shared(&first);
    return address >> 4 | (unsigned long long)(leading >> 4) << 16 | (unsigned long long)(stride >> 4) << 32 |
           SWIZZLE << 62;
}

// The descriptor of a matrix that begins some bytes after another.
__device__ __forceinline__ unsigned long long advanced(unsigned long long descriptor, int bytes) {
    return descriptor + (bytes >> 4);
}

// What this thread has written to shared memory, also by copies that it has waited for, can be read by
// products: by its own and, after a barrier, by others.
__device__ __forceinline__ void fence_proxy() {
#ifdef CUDA_EMULATED
    emulator::fence_proxy();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// A thread's sums of a product of COLUMNS columns. With g = lane / 4 and t = lane % 4, of every four the
// first two are in row g of the 16 rows of the warp, the others in row g + 8; and the i-th four are in
// columns 8i + 2t and 8i + 2t + 1.
template <int COLUMNS>
struct Sums {
    float of[COLUMNS / 2];
};

// Between accesses to sums and the next product that adds to them.
template <int COLUMNS>
__device__ __forceinline__ void fence_registers(Sums<COLUMNS>& sums) {
#ifdef CUDA_EMULATED
    emulator::fence_registers(EMULATED_LINE);
#else
#pragma unroll
    for (float& sum : sums.of) asm volatile("" : "+f"(sum)::"memory");  // the accesses are not moved past it
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Begin to add left · right. By default the rows of left lie along K, and so do the columns of right.
template <bool LEFT_TRANSPOSED, bool RIGHT_TRANSPOSED>
__device__ __forceinline__ void begin_product(Sums<128>& sums, unsigned long long left,
                                              unsigned long long right) {
#ifdef CUDA_EMULATED
    emulator::begin_product(sums.of, 128, left, right, LEFT_TRANSPOSED, RIGHT_TRANSPOSED, EMULATED_LINE);
#else
#define SUMS_OF_EIGHT(i)                                                                                   \
    "+f"(sums.of[i]), "+f"(sums.of[i + 1]), "+f"(sums.of[i + 2]), "+f"(sums.of[i + 3]), "+f"(sums.of[i + 4]), \
        "+f"(sums.of[i + 5]), "+f"(sums.of[i + 6]), "+f"(sums.of[i + 7])
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
        "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
        "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
        "%64, %65, 1, 1, 1, %66, %67;"
        : SUMS_OF_EIGHT(0), SUMS_OF_EIGHT(8), SUMS_OF_EIGHT(16), SUMS_OF_EIGHT(24), SUMS_OF_EIGHT(32),
          SUMS_OF_EIGHT(40), SUMS_OF_EIGHT(48), SUMS_OF_EIGHT(56)
        : "l"(left), "l"(right), "n"(int(LEFT_TRANSPOSED)), "n"(int(RIGHT_TRANSPOSED))
        : "memory");
#undef SUMS_OF_EIGHT
#endif
}

__device__ __forceinline__ void end_group_of_products() {
#ifdef CUDA_EMULATED
    emulator::end_group_of_products(EMULATED_LINE);
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Wait until all but the last GROUPS groups of products are done.
template <int GROUPS, int COLUMNS>
__device__ __forceinline__ void wait_for_products(Sums<COLUMNS>& sums) {
#ifdef CUDA_EMULATED
    emulator::wait_for_products(GROUPS, EMULATED_LINE);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
#pragma unroll
    for (float& sum : sums.of) asm volatile("" : "+f"(sum)::"memory");
#endif
}
