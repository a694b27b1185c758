// Sums over the threads of a block of eight warps. Always added in the same order: two runs give the same
// bits.

constexpr int WARPS = 8;

// Over the lanes that differ in the bits first, 2 · first, … below last. Each of these lanes gets the sum.
template <class Number>
__device__ __forceinline__ Number sum_over_lanes(Number value, int first, int last) {
    for (int distance = first; distance < last; distance *= 2)
        value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}

// Over the warps, each of which has left a row of numbers in shared memory: the sum of one column.
template <class Number, int COLUMNS>
__device__ __forceinline__ double sum_over_warps(const Number (&rows)[WARPS][COLUMNS], int column) {
    double sum = 0;
    for (int warp = 0; warp < WARPS; warp++) sum += rows[warp][column];
    return sum;
}

// Over the block, whose threads all call this, and only once. Each of them gets the sum.
__device__ __forceinline__ double sum_over_block(double value) {
    __shared__ double of_warp[WARPS][1];
    value = sum_over_lanes(value, 1, 32);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32][0] = value;
    __syncthreads();
    return sum_over_warps(of_warp, 0);
}
