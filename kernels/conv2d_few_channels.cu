// The rung "few_channels" of conv2d, forward and backward_weight; conv2d.cu has the ladder.
//
// For the first layer. Its images have one channel, or three, so that x cannot be read four numbers at a time.
// Its y has 64 numbers for each pixel, so that writing y, and reading its gradient, is most of the work. Here a
// block reads each window of x once, number by number, nine columns of patches at a time: all of a 3×3 window
// of one channel.
//
// A block of 256 threads has 256 pixels and 32 filters. A thread reads the window of one pixel, and multiplies
// for eight pixels and four filters.
//
// Launch: forward (rows / 256, F / 32) blocks of 256, backward_weight (K²C / 9, F / 32, parts). F must be a
// multiple of 4.

#include "conv2d_patches.cuh"
#include "reduce.cuh"

constexpr int PIXELS = 256, FILTERS = 32, COLUMNS = 9;

// A thread has pixels p..p+3 and 128+p..128+p+3, filters f..f+3. Eight neighbouring threads have the same
// pixels.
constexpr int THREADS_ACROSS = FILTERS / 4;
__device__ __forceinline__ int first_pixel() { return threadIdx.x / THREADS_ACROSS * 4; }
__device__ __forceinline__ int first_filter() { return threadIdx.x % THREADS_ACROSS * 4; }
__device__ __forceinline__ int pixel(int half, int e) { return half * PIXELS / 2 + first_pixel() + e; }

// A column of patches: row p of the window, and a number in this row, which lies in x in one piece.
struct Column {
    int p, number;
};

__device__ __forceinline__ Column column_of(const Shape& s, int column) {
    return {column / (s.size * s.channels), column % (s.size * s.channels)};
}

// Write the numbers of this thread's window in nine columns to shared memory, and move on to the next nine.
__device__ __forceinline__ void load_window(const float* x, const Shape& s, const Window& window,
                                            Column& column, float (&patches)[COLUMNS][PIXELS]) {
    int row_of_x = s.width * s.channels;
    float numbers[COLUMNS];
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
        unsigned i = window.i + column.p, in_row = window.j * s.channels + column.number;  // huge if negative
        bool exists = column.p < s.size && i < s.height && in_row < row_of_x;
        numbers[k] = exists ? x[window.offset + column.p * row_of_x + column.number] : 0;
        if (++column.number == s.size * s.channels) column = {column.p + 1, 0};
    }
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) patches[k][threadIdx.x] = numbers[k];
}

__device__ __forceinline__ void add_product(float4& sum, float left, const float4& right) {
    sum.x += left * right.x, sum.y += left * right.y, sum.z += left * right.z, sum.w += left * right.w;
}

extern "C" __global__ void __launch_bounds__(256, 4)
    conv2d_forward_few_channels(const float* x, const float* weight, const float* bias, float* y, int height,
                                int width, int channels, int size, int padding, int filters, int relu,
                                int rows) {
    __shared__ __align__(16) float patches[COLUMNS][PIXELS], weights[COLUMNS][FILTERS];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    Window window = window_of(s, blockIdx.x * PIXELS + threadIdx.x);
    Column column = column_of(s, 0);
    int f = blockIdx.y * FILTERS + first_filter(), depth = threadIdx.x / THREADS_ACROSS;
    float4 sums[2][4] = {};
    for (int first = 0; first < s.columns; first += COLUMNS) {
        if (depth < COLUMNS)
            as_float4(weights[depth][first_filter()]) =
                load_float4(weight, offset_in_matrix(first + depth, s.columns, f, filters));
        load_window(x, s, window, column, patches);
        __syncthreads();  // patches and weights are complete
#pragma unroll
        for (int k = 0; k < COLUMNS; k++) {
            float4 w = as_float4(weights[k][first_filter()]);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float4 four = as_float4(patches[k][pixel(half, 0)]);
                add_product(sums[half][0], four.x, w);
                add_product(sums[half][1], four.y, w);
                add_product(sums[half][2], four.z, w);
                add_product(sums[half][3], four.w, w);
            }
        }
        __syncthreads();  // nothing reads them any more
    }
    float4 b = load_float4(bias, {f, f < filters});
    float least = relu ? 0 : __uint_as_float(0xff800000);  // -∞
    auto finish = [&](float value) { return value < least ? least : value; };
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = blockIdx.x * PIXELS + pixel(half, e);
            float4 sum = sums[half][e];
            if (row < rows && f < filters)
                as_float4(y[row * filters + f]) = make_float4(finish(sum.x + b.x), finish(sum.y + b.y),
                                                              finish(sum.z + b.z), finish(sum.w + b.w));
        }
}

extern "C" __global__ void __launch_bounds__(256)
    conv2d_backward_weight_few_channels(const float* x, const float* grad_output, float* parts, int height,
                                        int width, int channels, int size, int padding, int filters, int rows,
                                        int rows_per_part) {
    __shared__ __align__(16) float patches[COLUMNS][PIXELS], of_warp[WARPS][COLUMNS * FILTERS];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    int first = blockIdx.z * rows_per_part, last = min(rows, first + rows_per_part);
    int f = blockIdx.y * FILTERS + first_filter();
    Window window = window_of(s, first + threadIdx.x);
    Column first_column = column_of(s, blockIdx.x * COLUMNS);
    float4 sums[COLUMNS] = {};
    for (; first < last; first += PIXELS) {
        float4 grads[2][4];
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                grads[half][e] =
                    load_float4(grad_output, offset_in_matrix(first + pixel(half, e), last, f, filters));
        if (first + threadIdx.x >= last) window.i = height;
        Column column = first_column;
        load_window(x, s, window, column, patches);
        advance(window, s, PIXELS);
        __syncthreads();  // the patches are complete
#pragma unroll
        for (int k = 0; k < COLUMNS; k++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float4 four = as_float4(patches[k][pixel(half, 0)]);
                add_product(sums[k], four.x, grads[half][0]);
                add_product(sums[k], four.y, grads[half][1]);
                add_product(sums[k], four.z, grads[half][2]);
                add_product(sums[k], four.w, grads[half][3]);
            }
        __syncthreads();  // nothing reads them any more
    }
    // Every eighth lane has the same filters.
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
        float4 sum = sums[k];
        sum.x = sum_over_lanes(sum.x, THREADS_ACROSS, 32), sum.y = sum_over_lanes(sum.y, THREADS_ACROSS, 32);
        sum.z = sum_over_lanes(sum.z, THREADS_ACROSS, 32), sum.w = sum_over_lanes(sum.w, THREADS_ACROSS, 32);
        if (threadIdx.x % 32 < THREADS_ACROSS)
            as_float4(of_warp[threadIdx.x / 32][k * FILTERS + first_filter()]) = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < COLUMNS * FILTERS; i += PIXELS) {
        int column = blockIdx.x * COLUMNS + i / FILTERS, filter = blockIdx.y * FILTERS + i % FILTERS;
        if (column < s.columns && filter < filters)
            parts[(blockIdx.z * s.columns + column) * filters + filter] = sum_over_warps(of_warp, i);
    }
}
