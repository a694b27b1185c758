// The rung "tensor_copies" of conv2d, forward and backward_weight; conv2d.cu has the ladder.
//
// The factors are copies of maps and weights that round_to_bf16 has made, in bfloat16: half as many bytes to
// read, and nothing to convert on the way to the tensor cores. A block has 256 threads and 128×128 results.
// Tiles lie in shared memory as they do in global memory, and ldmatrix spreads them over the lanes of a warp.
// A bfloat16 is an unsigned short here, which nothing computes with but tensor cores.
//
// flip_to_bf16 makes a copy of the weight for the gradient of x (conv2d_flip.cuh). Two kernels make copies of
// a gradient that nothing but these products uses, and add it up for the bias on the way: backward_relu of the
// one before a ReLU, gather_to_bf16 of that of an up-convolution (conv_transpose2d.cu).
//
// Between two convolutions (tinyunet/ops/conv2d_pair.py) maps and their gradients are in memory as copies only.
// rounded_forward writes such a map. backward_input is the gradient of x, which is the result of a ReLU: it goes
// on to before the ReLU, and adds up. rounded_backward_input also writes it as a copy.
//
// Launch: all products (rows / 128, F / 128) blocks of 256; round_to_bf16 one thread per four
// numbers, blocks of 256; backward_relu and gather_to_bf16 (F / 64, shares) blocks of 16×16. C and F must be
// multiples of 8, because copies have 16 bytes.

#include "conv2d_flip.cuh"
#include "conv2d_patches.cuh"
#include "reduce.cuh"

constexpr int TILE_ROWS = 128, TILE_COLUMNS = 128, STAGES = 3, STAGE_DEPTH = 32;

#include "conv2d_chunks.cuh"
#include "conv2d_tensor.cuh"

// Four 8×8 matrices, into one register for each. This lane has the address of row lane % 8 of matrix lane / 8,
// and gets two numbers of each matrix: those that multiply_bf16 expects of a factor whose rows lie as in the
// matrix or, transposed, as its columns.
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(unsigned (&d)[4], const unsigned short& row) {
#ifdef CUDA_EMULATED
    emulator::load_matrices<TRANSPOSED>(d, &row, EMULATED_LINE);
#else
    unsigned address = __cvta_generic_to_shared(&row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                     : "r"(address)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                     : "r"(address)
                     : "memory");
#endif
}

using RightTile = Tile<STAGE_DEPTH, TILE_COLUMNS>;

// Multiply the tiles of a stage. The rows of the left one are those of the result or, DEPTH_FIRST, the pixels
// that are summed.
template <bool DEPTH_FIRST, class Left>
__device__ __forceinline__ void multiply_stage(Left& left, RightTile& right, Pieces& pieces) {
    int lane = threadIdx.x % 32, low = lane % 16, high = lane / 16 * 8;
#pragma unroll
    for (int first = 0; first < STAGE_DEPTH; first += 16) {
        unsigned a[4][4], b[2][4];
#pragma unroll
        for (int m = 0; m < 4; m++) {
            int row = warp_row() + 16 * m;
            if (DEPTH_FIRST)
                load_matrices<true>(a[m], left.chunk(first + high + lane % 8, row + low / 8 * 8));
            else
                load_matrices<false>(a[m], left.chunk(row + low, first + high));
        }
#pragma unroll
        for (int n = 0; n < 2; n++)
            load_matrices<true>(b[n], right.chunk(first + low, warp_column() + 16 * n + high));
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) {
                unsigned factor[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
                multiply_bf16(pieces.sum[m][n], a[m], factor);
            }
    }
}

// Whether a warp has results at all: with 64 filters only half of them have.
__device__ __forceinline__ bool warp_is_inside(int rows, int columns) {
    int row = blockIdx.x * TILE_ROWS + warp_row(), column = blockIdx.y * TILE_COLUMNS + warp_column();
    return row < rows && column < columns;
}

// Write two adjacent numbers, as they are or rounded to bfloat16.
__device__ __forceinline__ void write_two(float* to, float first, float second) {
    *reinterpret_cast<float2*>(to) = make_float2(first, second);
}
__device__ __forceinline__ void write_two(unsigned short* to, float first, float second) {
    *reinterpret_cast<unsigned*>(to) = to_bf16(first, second);
}

// finish(value, column) is applied to each value before it is written. A lane has two adjacent values in each
// of two rows of a piece.
template <class Result, class Finish>
__device__ __forceinline__ void write_pieces(Result* result, int rows, int columns, const Pieces& pieces,
                                             Finish finish) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                int row = blockIdx.x * TILE_ROWS + warp_row() + 16 * m + g + e / 2 * 8;
                int column = blockIdx.y * TILE_COLUMNS + warp_column() + 8 * n + 2 * t;
                if (row < rows && column < columns)
                    write_two(result + row * columns + column, finish(pieces.sum[m][n][e], column),
                              finish(pieces.sum[m][n][e + 1], column + 1));
            }
}

// The product of forward, left in pieces. The tiles are of no use afterwards.
__device__ __forceinline__ void convolve(const unsigned short* x, const unsigned short* weight, const Shape& s,
                                         Tile<TILE_ROWS, STAGE_DEPTH> (&left)[STAGES],
                                         RightTile (&right)[STAGES], Pieces& pieces) {
    // This thread fetches eight channels of each of two windows, and eight filters of each of two rows of
    // weight.
    int row = threadIdx.x / 4, part = threadIdx.x % 4 * 8;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 8;
    Tap tap = tap_of(s, part);
    Window windows[2];
#pragma unroll
    for (int e = 0; e < 2; e++) windows[e] = window_of(s, blockIdx.x * TILE_ROWS + row + 64 * e);
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_16_bytes(left[stage].chunk(row + 64 * e, part), x, offset_in_x(s, windows[e], tap));
        advance(tap, s, STAGE_DEPTH);
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_16_bytes(right[stage].chunk(depth + 16 * e, column), weight,
                          offset_in_matrix(k + depth + 16 * e, s.columns, blockIdx.y * TILE_COLUMNS + column,
                                           s.filters));
    };
    bool multiplies = warp_is_inside(s.rows, s.filters);
    run_stages(0, s.columns, fetch, [&](int stage) {
        if (multiplies) multiply_stage<false>(left[stage], right[stage], pieces);
    });
}

template <class Result>
__device__ __forceinline__ void forward(const unsigned short* x, const unsigned short* weight,
                                        const float* bias, Result* y, const Shape& s, int relu) {
    __shared__ Tile<TILE_ROWS, STAGE_DEPTH> left[STAGES];
    __shared__ RightTile right[STAGES];
    Pieces pieces = {};
    convolve(x, weight, s, left, right, pieces);
    write_pieces(y, s.rows, s.filters, pieces, [&](float value, int f) {
        value += bias[f];
        return relu && value < 0 ? 0 : value;
    });
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_forward_tensor_copies(const unsigned short* x, const unsigned short* weight, const float* bias,
                                 float* y, int height, int width, int channels, int size, int padding,
                                 int filters, int relu, int rows) {
    forward(x, weight, bias, y, shape_of(height, width, channels, size, padding, filters, rows), relu);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_rounded_forward_tensor_copies(const unsigned short* x, const unsigned short* weight,
                                         const float* bias, unsigned short* y, int height, int width,
                                         int channels, int size, int padding, int filters, int relu,
                                         int rows) {
    forward(x, weight, bias, y, shape_of(height, width, channels, size, padding, filters, rows), relu);
}

// The gradient of x as by forward, with the weight flipped, set to 0 where x, the result of a ReLU, is 0. Each
// block leaves its sums over the pixels in parts, blocks × F.
template <class Result>
__device__ __forceinline__ void backward_input(const unsigned short* grad_output, const unsigned short* weight,
                                               const unsigned short* x, Result* grad_x, double* parts,
                                               const Shape& s) {
    __shared__ Tile<TILE_ROWS, STAGE_DEPTH> left[STAGES];
    __shared__ RightTile right[STAGES];
    Pieces pieces = {};
    convolve(grad_output, weight, s, left, right, pieces);
    auto& of_warps = reinterpret_cast<double(&)[TILE_ROWS / 64][TILE_COLUMNS]>(right);
    __syncthreads();  // all warps have multiplied the last tiles
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 4; n++) {
        int of_block = warp_column() + 8 * n + 2 * t, column = blockIdx.y * TILE_COLUMNS + of_block;
        double sums[2] = {};
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                int row = blockIdx.x * TILE_ROWS + warp_row() + 16 * m + g + e / 2 * 8;
                if (row >= s.rows || column >= s.filters) continue;
                int i = row * s.filters + column;
                unsigned two = *reinterpret_cast<const unsigned*>(x + i);
                float first = __uint_as_float(two << 16) > 0 ? pieces.sum[m][n][e] : 0;
                float second = __uint_as_float(two & 0xffff0000) > 0 ? pieces.sum[m][n][e + 1] : 0;
                sums[0] += first, sums[1] += second;
                write_two(grad_x + i, first, second);
            }
        for (int e = 0; e < 2; e++) {
            double sum = sum_over_lanes(sums[e], 4, 32);
            if (g == 0) of_warps[warp_row() / 64][of_block + e] = sum;
        }
    }
    __syncthreads();
    int column = blockIdx.y * TILE_COLUMNS + threadIdx.x;
    if (threadIdx.x >= TILE_COLUMNS || column >= s.filters) return;
    parts[blockIdx.x * s.filters + column] = of_warps[0][threadIdx.x] + of_warps[1][threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_backward_input_tensor_copies(const unsigned short* grad_output, const unsigned short* weight,
                                        const unsigned short* x, float* grad_x, double* parts, int height,
                                        int width, int channels, int size, int padding, int filters,
                                        int rows) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    backward_input(grad_output, weight, x, grad_x, parts, s);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_rounded_backward_input_tensor_copies(const unsigned short* grad_output,
                                                const unsigned short* weight, const unsigned short* x,
                                                unsigned short* grad_x, double* parts, int height, int width,
                                                int channels, int size, int padding, int filters, int rows) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    backward_input(grad_output, weight, x, grad_x, parts, s);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_backward_weight_tensor_copies(const unsigned short* x, const unsigned short* grad_output,
                                         float* parts, int height, int width, int channels, int size,
                                         int padding, int filters, int rows, int rows_per_part) {
    __shared__ Tile<STAGE_DEPTH, TILE_ROWS> left[STAGES];
    __shared__ RightTile right[STAGES];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // This thread fetches eight channels and eight filters of each of two pixels.
    int pixel = threadIdx.x / 16, column = threadIdx.x % 16 * 8;
    int first = blockIdx.z * rows_per_part, last = min(s.rows, first + rows_per_part);
    Tap tap = tap_of(s, blockIdx.x * TILE_ROWS + column);
    Window windows[2];
#pragma unroll
    for (int e = 0; e < 2; e++) windows[e] = window_of(s, first + pixel + 16 * e);
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int row = k + pixel + 16 * e;
            if (row >= s.rows) windows[e].i = s.height;
            copy_16_bytes(left[stage].chunk(pixel + 16 * e, column), x, offset_in_x(s, windows[e], tap));
            advance(windows[e], s, STAGE_DEPTH);
            copy_16_bytes(right[stage].chunk(pixel + 16 * e, column), grad_output,
                          offset_in_matrix(row, s.rows, blockIdx.y * TILE_COLUMNS + column, s.filters));
        }
    };
    Pieces pieces = {};
    bool multiplies = warp_is_inside(s.columns, s.filters);
    run_stages(first, last, fetch, [&](int stage) {
        if (multiplies) multiply_stage<true>(left[stage], right[stage], pieces);
    });
    write_pieces(parts + blockIdx.z * s.columns * s.filters, s.columns, s.filters, pieces,
                 [](float value, int) { return value; });
}

extern "C" __global__ void conv2d_round_to_bf16(const float* x, unsigned short* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float4 v = reinterpret_cast<const float4*>(x)[i];
    reinterpret_cast<uint2*>(y)[i] = make_uint2(to_bf16(v.x, v.y), to_bf16(v.z, v.w));
}

extern "C" __global__ void conv2d_flip_to_bf16(const float* weight, unsigned short* flipped, int channels,
                                               int filters) {
    flip(weight, flipped, channels, filters,
         [](float number) { return static_cast<unsigned short>(to_bf16(number, 0)); });
}

// Copy the gradient of maps rounded to bfloat16, and add it up. A thread has four filters, a block 64 of them
// and a share of the rows. It leaves their sums in parts, shares × F, which conv2d_backward_bias_end adds.
// load(i) loads what four numbers from index i on are made of, place(row, f) is their index in the copy.
template <class Loaded, class Load, class Place>
__device__ __forceinline__ void copy_and_add(Load load, Place place, unsigned short* copy, double* parts,
                                             int rows, int filters) {
    constexpr int LOADS = 4, THREADS = 16, FILTERS = 4 * THREADS;
    __shared__ double of_warp[WARPS][FILTERS];
    int f = blockIdx.x * FILTERS + 4 * threadIdx.x, step = THREADS * gridDim.y;
    double sums[4] = {};
    for (int first = blockIdx.y * THREADS + threadIdx.y; f < filters && first < rows; first += LOADS * step) {
        Loaded loaded[LOADS];
#pragma unroll
        for (int e = 0; e < LOADS; e++) {
            int row = first + e * step;
            loaded[e] = row < rows ? load(row * filters + f) : Loaded{};
        }
#pragma unroll
        for (int e = 0; e < LOADS; e++) {
            float4 g = loaded[e].numbers();
            sums[0] += g.x, sums[1] += g.y, sums[2] += g.z, sums[3] += g.w;
            int row = first + e * step;
            if (row < rows)
                *reinterpret_cast<uint2*>(copy + place(row, f)) =
                    make_uint2(to_bf16(g.x, g.y), to_bf16(g.z, g.w));
        }
    }
    // A warp has two rows of threads. The first filters of all threads come first, so that no banks conflict.
    for (int e = 0; e < 4; e++) {
        double sum = sum_over_lanes(sums[e], THREADS, 32);
        if (threadIdx.y % 2 == 0) of_warp[threadIdx.y / 2][e * THREADS + threadIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.y >= 4 || f >= filters) return;
    parts[blockIdx.y * filters + f + threadIdx.y] =
        sum_over_warps(of_warp, threadIdx.y * THREADS + threadIdx.x);
}

// Four numbers of a gradient, and the ReLU's results, on which they depend: both on their way at once.
struct WithResult {
    float4 g, y;
    __device__ __forceinline__ float4 numbers() const {
        return make_float4(y.x > 0 ? g.x : 0, y.y > 0 ? g.y : 0, y.z > 0 ? g.z : 0, y.w > 0 ? g.w : 0);
    }
};

struct Gradient {
    float4 g;
    __device__ __forceinline__ float4 numbers() const { return g; }
};

extern "C" __global__ void __launch_bounds__(256)
    conv2d_backward_relu(const float* grad_output, const float* y, unsigned short* grad, double* parts,
                         int rows, int filters) {
    auto load = [&](int i) {
        return WithResult{*reinterpret_cast<const float4*>(grad_output + i),
                          *reinterpret_cast<const float4*>(y + i)};
    };
    auto place = [&](int row, int f) { return row * filters + f; };
    copy_and_add<WithResult>(load, place, grad, parts, rows, filters);
}

// Rows are pixels of grad_output, which has this width. Of the copy, each row has the four pixels of a square.
extern "C" __global__ void __launch_bounds__(256)
    conv2d_gather_to_bf16(const float* grad_output, unsigned short* grad, double* parts, int width, int rows,
                          int filters) {
    auto load = [&](int i) { return Gradient{*reinterpret_cast<const float4*>(grad_output + i)}; };
    auto place = [&](int row, int f) {
        int line = row / width, column = row % width;
        int square = line / 2 * (width / 2) + column / 2, tap = line % 2 * 2 + column % 2;
        return (square * 4 + tap) * filters + f;
    };
    copy_and_add<Gradient>(load, place, grad, parts, rows, filters);
}
