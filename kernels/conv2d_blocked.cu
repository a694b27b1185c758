// The rung "blocked" of conv2d, forward and backward_weight; conv2d.cu has the ladder.

#include "conv2d_patches.cuh"
#include "conv2d_tiles.cuh"

extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_blocked(const float* x, const float* weight, const float* bias, float* y, int height,
                           int width, int channels, int size, int padding, int filters, int relu, int rows) {
    __shared__ Tiles tiles;
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // This thread fetches four channels of each of two windows, and four filters.
    int row = threadIdx.x / 2, part = threadIdx.x % 2 * 4;
    Tap tap = tap_of(s, part);
    Window upper = window_of(s, blockIdx.x * TILE_ROWS + row);
    Window lower = window_of(s, blockIdx.x * TILE_ROWS + TILE_ROWS / 2 + row);
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    float4 a, b, w;
    auto fetch = [&](int k) {
        a = load_float4(x, offset_in_x(s, upper, tap));
        b = load_float4(x, offset_in_x(s, lower, tap));
        w = load_float4(weight,
                        offset_in_matrix(k + depth, s.columns, blockIdx.y * TILE_COLUMNS + column, filters));
        advance(tap, s, DEPTH);
    };
    auto store_tile = [&](int buffer) {
        float upper_values[4] = {a.x, a.y, a.z, a.w}, lower_values[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            tiles.left[buffer][part + e][row] = upper_values[e];
            tiles.left[buffer][part + e][TILE_ROWS / 2 + row] = lower_values[e];
        }
        as_float4(tiles.right[buffer][depth][column]) = w;
    };
    float sum[8][8] = {};
    multiply(tiles, 0, s.columns, fetch, store_tile, sum);
    write_result(y, rows, filters, sum, [&](float value, int f) {
        value += bias[f];
        return relu && value < 0 ? 0 : value;
    });
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_blocked(const float* x, const float* grad_output, float* parts, int height,
                                   int width, int channels, int size, int padding, int filters, int rows,
                                   int rows_per_part) {
    __shared__ Tiles tiles;
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // This thread fetches two times four channels of one pixel, and four filters.
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    int first = blockIdx.z * rows_per_part;
    Tap near = tap_of(s, blockIdx.x * TILE_ROWS + column);
    Tap far = tap_of(s, blockIdx.x * TILE_ROWS + TILE_ROWS / 2 + column);
    Window window = window_of(s, first + depth);
    float4 a, b, g;
    auto fetch = [&](int k) {
        if (k + depth >= rows) window.i = height;
        a = load_float4(x, offset_in_x(s, window, near));
        b = load_float4(x, offset_in_x(s, window, far));
        g = load_float4(grad_output,
                        offset_in_matrix(k + depth, rows, blockIdx.y * TILE_COLUMNS + column, filters));
        advance(window, s, DEPTH);
    };
    auto store_tile = [&](int buffer) {
        as_float4(tiles.left[buffer][depth][column]) = a;
        as_float4(tiles.left[buffer][depth][TILE_ROWS / 2 + column]) = b;
        as_float4(tiles.right[buffer][depth][column]) = g;
    };
    float sum[8][8] = {};
    multiply(tiles, first, min(rows, first + rows_per_part), fetch, store_tile, sum);
    write_result(parts + blockIdx.z * s.columns * filters, s.columns, filters, sum,
                 [](float value, int) { return value; });
}
