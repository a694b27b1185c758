// A block of 128 threads multiplies a 128 × DEPTH tile by a DEPTH × 64 tile, again and again: for the rungs
// "blocked" and "winograd" of conv2d.

constexpr int DEPTH = 8;

struct __align__(16) Tiles {
    // Two of each: one is read while the other is written. Both have the depth as their first axis, so that a
    // thread reads its rows and its columns four at a time. The four more make each depth begin at another
    // bank.
    float left[2][DEPTH][TILE_ROWS + 4];
    float right[2][DEPTH][TILE_COLUMNS];
};

__device__ __forceinline__ float4& four(const float& first) {
    return *reinterpret_cast<float4*>(const_cast<float*>(&first));
}

__device__ __forceinline__ float4 four_at(const float* array, Place place) {
    return place.exists ? four(array[place.offset]) : make_float4(0, 0, 0, 0);
}

// A thread's 8×8: rows r..r+3 and 64+r..64+r+3, columns c..c+3 and 32+c..32+c+3, with
__device__ __forceinline__ int first_row() { return threadIdx.x / 8 * 4; }
__device__ __forceinline__ int first_column() { return threadIdx.x % 8 * 4; }

__device__ __forceinline__ void multiply_tiles(const Tiles& tiles, int buffer, float (&sum)[8][8]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        __align__(16) float left[8], right[8];
        four(left[0]) = four(tiles.left[buffer][k][first_row()]);
        four(left[4]) = four(tiles.left[buffer][k][TILE_ROWS / 2 + first_row()]);
        four(right[0]) = four(tiles.right[buffer][k][first_column()]);
        four(right[4]) = four(tiles.right[buffer][k][TILE_COLUMNS / 2 + first_column()]);
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
            for (int c = 0; c < 8; c++) sum[r][c] += left[r] * right[c];
    }
}

// fetch(step) reads the tiles that begin at this depth into registers, each time DEPTH further; put(buffer)
// writes them to shared memory.
template <class Fetch, class Put>
__device__ __forceinline__ void multiply(const Tiles& tiles, int first, int last, Fetch fetch, Put put,
                                         float (&sum)[8][8]) {
    fetch(first);
    put(0);
    __syncthreads();
    int buffer = 0;
    for (int step = first; step < last; step += DEPTH) {
        bool more = step + DEPTH < last;
        if (more) fetch(step + DEPTH);
        multiply_tiles(tiles, buffer, sum);
        if (more) put(buffer ^ 1);
        __syncthreads();  // the new tiles are complete, and no one needs the old ones
        buffer ^= 1;
    }
}

// finish(number, column) before each is written.
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
                four(result[row * columns + column]) =
                    make_float4(finish(sum[r][c], column), finish(sum[r][c + 1], column + 1),
                                finish(sum[r][c + 2], column + 2), finish(sum[r][c + 3], column + 3));
        }
    }
}
