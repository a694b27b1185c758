// A block of 128 threads multiplies a 128 × DEPTH tile by a DEPTH × 64 tile, again and again, for the rungs
// "blocked" and "winograd" of conv2d.

constexpr int TILE_ROWS = 128, TILE_COLUMNS = 64, DEPTH = 8;

struct __align__(16) Tiles {
    // Two of each: one is read while the other is written. The depth is the first axis of both, so that a
    // thread reads its rows and its columns four at a time. The padding of four makes each depth begin at
    // another bank.
    float left[2][DEPTH][TILE_ROWS + 4];
    float right[2][DEPTH][TILE_COLUMNS];
};

// Each thread has 8×8 elements: rows r..r+3 and 64+r..64+r+3, columns c..c+3 and 32+c..32+c+3.
__device__ __forceinline__ int first_row() { return threadIdx.x / 8 * 4; }
__device__ __forceinline__ int first_column() { return threadIdx.x % 8 * 4; }

__device__ __forceinline__ void multiply_tiles(const Tiles& tiles, int buffer, float (&sum)[8][8]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        __align__(16) float left[8], right[8];
        as_float4(left[0]) = as_float4(tiles.left[buffer][k][first_row()]);
        as_float4(left[4]) = as_float4(tiles.left[buffer][k][TILE_ROWS / 2 + first_row()]);
        as_float4(right[0]) = as_float4(tiles.right[buffer][k][first_column()]);
        as_float4(right[4]) = as_float4(tiles.right[buffer][k][TILE_COLUMNS / 2 + first_column()]);
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
            for (int c = 0; c < 8; c++) sum[r][c] += left[r] * right[c];
    }
}

// fetch(depth) reads the tiles that begin at this depth into registers, each time DEPTH further;
// store_tile(buffer) writes them to shared memory.
template <class Fetch, class Store>
__device__ __forceinline__ void multiply(const Tiles& tiles, int first, int last, Fetch fetch,
                                         Store store_tile, float (&sum)[8][8]) {
    fetch(first);
    store_tile(0);
    __syncthreads();
    int buffer = 0;
    for (int depth = first; depth < last; depth += DEPTH) {
        bool more = depth + DEPTH < last;
        if (more) fetch(depth + DEPTH);
        multiply_tiles(tiles, buffer, sum);
        if (more) store_tile(buffer ^ 1);
        __syncthreads();  // the new tiles are complete, and nothing reads the old ones
        buffer ^= 1;
    }
}

// finish(value, column) is applied to each value before it is written.
template <class Finish>
__device__ __forceinline__ void write_result(float* result, int rows, int columns, const float (&sum)[8][8],
                                             Finish finish) {
#pragma unroll
    for (int r = 0; r < 8; r++) {
        int row = blockIdx.x * TILE_ROWS + first_row() + r % 4 + r / 4 * TILE_ROWS / 2;
#pragma unroll
        for (int c = 0; c < 8; c += 4) {
            int column = blockIdx.y * TILE_COLUMNS + first_column() + c / 4 * TILE_COLUMNS / 2;
            if (row < rows && column < columns)
                as_float4(result[row * columns + column]) =
                    make_float4(finish(sum[r][c], column), finish(sum[r][c + 1], column + 1),
                                finish(sum[r][c + 2], column + 2), finish(sum[r][c + 3], column + 3));
        }
    }
}
