// The rung "blocked" of conv2d, forward and backward_weight; conv2d.cu has the ladder.
//
// A block of 128 threads multiplies a 128 × DEPTH tile by a DEPTH × 64 tile, again and again.

#include "conv2d_patches.cuh"

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

extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_blocked(const float* x, const float* weight, const float* bias, float* y, int height,
                           int width, int channels, int size, int padding, int filters, int relu, int rows) {
    __shared__ Tiles tiles;
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // What this thread fetches: four channels each of two windows, four filters.
    int row = threadIdx.x / 2, part = threadIdx.x % 2 * 4;
    Tap tap = tap_of(s, part);
    Window upper = window_of(s, blockIdx.x * TILE_ROWS + row);
    Window lower = window_of(s, blockIdx.x * TILE_ROWS + TILE_ROWS / 2 + row);
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    float4 a, b, w;
    auto fetch = [&](int k) {
        a = four_at(x, place_in_x(s, upper, tap));
        b = four_at(x, place_in_x(s, lower, tap));
        w = four_at(weight,
                    place_in_matrix(k + depth, s.columns, blockIdx.y * TILE_COLUMNS + column, filters));
        advance(tap, s, DEPTH);
    };
    auto put = [&](int buffer) {
        float upper_four[4] = {a.x, a.y, a.z, a.w}, lower_four[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            tiles.left[buffer][part + e][row] = upper_four[e];
            tiles.left[buffer][part + e][TILE_ROWS / 2 + row] = lower_four[e];
        }
        four(tiles.right[buffer][depth][column]) = w;
    };
    float sum[8][8] = {};
    multiply(tiles, 0, s.columns, fetch, put, sum);
    write_result(y, rows, filters, sum, [&](float value, int f) {
        value += bias[f];
        return relu && value < 0 ? 0 : value;
    });
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_blocked(const float* x, const float* grad_output, float* parts, int height,
                                   int width, int channels, int size, int padding, int filters, int rows,
                                   int rows_a_part) {
    __shared__ Tiles tiles;
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // What this thread fetches of one pixel: twice four channels, four filters.
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    int first = blockIdx.z * rows_a_part;
    Tap near = tap_of(s, blockIdx.x * TILE_ROWS + column);
    Tap far = tap_of(s, blockIdx.x * TILE_ROWS + TILE_ROWS / 2 + column);
    Window window = window_of(s, first + depth);
    float4 a, b, g;
    auto fetch = [&](int k) {
        if (k + depth >= rows) window.i = height;
        a = four_at(x, place_in_x(s, window, near));
        b = four_at(x, place_in_x(s, window, far));
        g = four_at(grad_output,
                    place_in_matrix(k + depth, rows, blockIdx.y * TILE_COLUMNS + column, filters));
        advance(window, s, DEPTH);
    };
    auto put = [&](int buffer) {
        four(tiles.left[buffer][depth][column]) = a;
        four(tiles.left[buffer][depth][TILE_ROWS / 2 + column]) = b;
        four(tiles.right[buffer][depth][column]) = g;
    };
    float sum[8][8] = {};
    multiply(tiles, first, min(rows, first + rows_a_part), fetch, put, sum);
    write_result(parts + blockIdx.z * s.columns * filters, s.columns, filters, sum,
                 [](float value, int) { return value; });
}
