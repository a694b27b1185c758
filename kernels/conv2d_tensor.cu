// The rungs "tensor" and "tensor_bf16" of conv2d, forward and backward_weight; conv2d.cu has the ladder.
//
// Tiles are copied to shared memory past the registers and multiplied by tensor cores; then the sums are
// written.

#include "conv2d_patches.cuh"

constexpr int TILE_ROWS = 128, TILE_COLUMNS = 64, STAGES = 3, STAGE_DEPTH = 16;

#include "conv2d_tensor.cuh"

__device__ __forceinline__ unsigned to_tf32(float value) {
#ifdef CUDA_EMULATED
    return emulator::round_to_tf32(value);
#else
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return rounded;
#endif
}

// The factors of one instruction: DEPTH numbers, of which lane t of four holds one or two in each of its two
// registers. number(k) is the k-th of them. The products may be added in any order, so a lane may hold other
// numbers than PTX says if it does so in both factors. With bfloat16 it holds the k-th and the one four after
// it, not two neighbours: then lanes read from as many banks as with TF32.
struct Tf32 {
    static constexpr int DEPTH = 8;
    template <class Number>
    __device__ __forceinline__ static unsigned pack(Number number, int t, int half) {
        return to_tf32(number(t + 4 * half));
    }
    __device__ __forceinline__ static void multiply(float (&d)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2]) {
        multiply_tf32(d, a, b);
    }
};

struct Bf16 {
    static constexpr int DEPTH = 16;
    template <class Number>
    __device__ __forceinline__ static unsigned pack(Number number, int t, int half) {
        return to_bf16(number(t + 8 * half), number(t + 8 * half + 4));
    }
    __device__ __forceinline__ static void multiply(float (&d)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2]) {
        multiply_bf16(d, a, b);
    }
};

// left(row, k) is an element of the left tile. The rows of both tiles are padded so that 32 lanes read from
// 32 banks.
template <class Factors, class Left>
__device__ __forceinline__ void multiply_stage(Left left, const float (&right)[STAGE_DEPTH][TILE_COLUMNS + 8],
                                               Pieces& pieces) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int first = 0; first < STAGE_DEPTH; first += Factors::DEPTH) {
        unsigned a[4][4], b[4][2];
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = warp_row() + 16 * m + g + e % 2 * 8;
                a[m][e] = Factors::pack([&](int k) { return left(row, first + k); }, t, e / 2);
            }
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = warp_column() + 8 * n + g;
                b[n][e] = Factors::pack([&](int k) { return right[first + k][column]; }, t, e);
            }
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) Factors::multiply(pieces.sum[m][n], a[m], b[n]);
    }
}

// finish(value, column) is applied to each value before it is written. A lane has two adjacent values in each
// of two rows of a piece.
template <class Finish>
__device__ __forceinline__ void write_pieces(float* result, int rows, int columns, const Pieces& pieces,
                                             Finish finish) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = blockIdx.x * TILE_ROWS + warp_row() + 16 * m + g + e / 2 * 8;
                int column = blockIdx.y * TILE_COLUMNS + warp_column() + 8 * n + 2 * t + e % 2;
                if (row < rows && column < columns)
                    result[row * columns + column] = finish(pieces.sum[m][n][e], column);
            }
}

template <class Factors>
__device__ __forceinline__ void forward_on_tensor_cores(const Shape& s, const float* x, const float* weight,
                                                        const float* bias, float* y, int relu) {
    __shared__ __align__(16) float left[STAGES][TILE_ROWS][STAGE_DEPTH + 4];
    __shared__ __align__(16) float right[STAGES][STAGE_DEPTH][TILE_COLUMNS + 8];
    // This thread fetches four channels of each of four windows, and four filters of each of two rows of
    // weight.
    int row = threadIdx.x / 4, part = threadIdx.x % 4 * 4;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    Tap tap = tap_of(s, part);
    Window windows[4];
#pragma unroll
    for (int e = 0; e < 4; e++) windows[e] = window_of(s, blockIdx.x * TILE_ROWS + row + 32 * e);
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            copy_16_bytes(left[stage][row + 32 * e][part], x, offset_in_x(s, windows[e], tap));
        advance(tap, s, STAGE_DEPTH);
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_16_bytes(right[stage][depth + 8 * e][column], weight,
                          offset_in_matrix(k + depth + 8 * e, s.columns, blockIdx.y * TILE_COLUMNS + column,
                                           s.filters));
    };
    Pieces pieces = {};
    run_stages(0, s.columns, fetch, [&](int stage) {
        multiply_stage<Factors>([&](int r, int k) { return left[stage][r][k]; }, right[stage], pieces);
    });
    write_pieces(y, s.rows, s.filters, pieces, [&](float value, int f) {
        value += bias[f];
        return relu && value < 0 ? 0 : value;
    });
}

template <class Factors>
__device__ __forceinline__ void backward_weight_on_tensor_cores(const Shape& s, const float* x,
                                                                const float* grad_output, float* parts,
                                                                int rows_per_part) {
    __shared__ __align__(16) float left[STAGES][STAGE_DEPTH][TILE_ROWS + 8];
    __shared__ __align__(16) float right[STAGES][STAGE_DEPTH][TILE_COLUMNS + 8];
    // This thread fetches four times four channels of one pixel, and four filters of each of two.
    int pixel = threadIdx.x / 8, channel = threadIdx.x % 8 * 4;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    int first = blockIdx.z * rows_per_part, last = min(s.rows, first + rows_per_part);
    Window window = window_of(s, first + pixel);
    Tap taps[4];
#pragma unroll
    for (int e = 0; e < 4; e++) taps[e] = tap_of(s, blockIdx.x * TILE_ROWS + channel + 32 * e);
    auto fetch = [&](int stage, int k) {
        if (k + pixel >= s.rows) window.i = s.height;
#pragma unroll
        for (int e = 0; e < 4; e++)
            copy_16_bytes(left[stage][pixel][channel + 32 * e], x, offset_in_x(s, window, taps[e]));
        advance(window, s, STAGE_DEPTH);
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_16_bytes(
                right[stage][depth + 8 * e][column], grad_output,
                offset_in_matrix(k + depth + 8 * e, s.rows, blockIdx.y * TILE_COLUMNS + column, s.filters));
    };
    Pieces pieces = {};
    run_stages(first, last, fetch, [&](int stage) {
        multiply_stage<Factors>([&](int r, int k) { return left[stage][k][r]; }, right[stage], pieces);
    });
    write_pieces(parts + blockIdx.z * s.columns * s.filters, s.columns, s.filters, pieces,
                 [](float value, int) { return value; });
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_tensor(const float* x, const float* weight, const float* bias, float* y, int height,
                          int width, int channels, int size, int padding, int filters, int relu, int rows) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    forward_on_tensor_cores<Tf32>(s, x, weight, bias, y, relu);
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_tensor(const float* x, const float* grad_output, float* parts, int height,
                                  int width, int channels, int size, int padding, int filters, int rows,
                                  int rows_per_part) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    backward_weight_on_tensor_cores<Tf32>(s, x, grad_output, parts, rows_per_part);
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_tensor_bf16(const float* x, const float* weight, const float* bias, float* y, int height,
                               int width, int channels, int size, int padding, int filters, int relu,
                               int rows) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    forward_on_tensor_cores<Bf16>(s, x, weight, bias, y, relu);
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_tensor_bf16(const float* x, const float* grad_output, float* parts, int height,
                                       int width, int channels, int size, int padding, int filters, int rows,
                                       int rows_per_part) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    backward_weight_on_tensor_cores<Bf16>(s, x, grad_output, parts, rows_per_part);
}
