// The weight of a convolution, rotated by 180° and with channels and filters exchanged: with it the gradient of
// x is a convolution of grad_output.
//
// The matrix of each tap, C × F, is transposed in tiles of 32×32 by way of shared memory, so that a warp reads
// and writes neighbours. A row of the tile has one number more, which puts the numbers of a column into
// different banks.
//
// Launch: (F / 32, C / 32, K²) blocks of 32×8.

// convert(number) is applied to each number on its way out.
template <class Number, class Convert>
__device__ __forceinline__ void flip(const float* weight, Number* flipped, int channels, int filters,
                                     Convert convert) {
    constexpr int SIDE = 32, THREADS = 8;
    __shared__ float tile[SIDE][SIDE + 1];
    int first_f = blockIdx.x * SIDE, first_c = blockIdx.y * SIDE;
    const float* from = weight + blockIdx.z * channels * filters;
    Number* to = flipped + (gridDim.z - 1 - blockIdx.z) * channels * filters;
#pragma unroll
    for (int e = 0; e < SIDE; e += THREADS) {
        int c = first_c + threadIdx.y + e, f = first_f + threadIdx.x;
        if (c < channels && f < filters) tile[threadIdx.y + e][threadIdx.x] = from[c * filters + f];
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < SIDE; e += THREADS) {
        int f = first_f + threadIdx.y + e, c = first_c + threadIdx.x;
        if (c < channels && f < filters) to[f * channels + c] = convert(tile[threadIdx.x][threadIdx.y + e]);
    }
}
