// Convolution with stride 1, from naive to fast.
//
//   y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] · x[n,i+p-padding,j+q-padding,c]  (0 outside x)
//
// With channels last this is a product of matrices. y is pixels × F, and weight is K²C × F as it lies in
// memory. Each row of the third matrix, patches, is the window of x at one pixel n,i,j. It is never in memory
// ("implicit"):
//
//   y = patches · weight      grad_weight = patchesᵀ · grad_output      grad_x = forward with weight flipped
//
// Rungs of forward (and so of the gradient of x) and of backward_weight:
//
//   naive    one thread per element of the result; every factor is read from memory each time
//   tiled    16×16 elements per block; 16 columns of one factor and 16 rows of the other are in shared
//            memory, where each number is used 16 times
//   few_channels   256×32 elements per block, 8×4 in the registers of each thread. x is read number by number,
//            as images must be. Of a weight gradient a block has 9×32 elements, and its threads share out the
//            pixels. F must be a multiple of 4
//   blocked  128×64 elements per block, 8×8 in the registers of each thread: a number read from shared
//            memory is used 8 times. 128-bit loads; the next tiles are fetched while these are multiplied. C
//            and F must be multiples of 4
//   tensor   the same blocks on tensor cores: a warp multiplies 16×8 by 8×8 in one instruction. Factors are
//            rounded to TF32 (10 fraction bits), sums are float32. Three stages of tiles in shared memory,
//            two of them being filled past the registers (cp.async). C and F must be multiples of 4
//   tensor_bf16   the same with 16×16 by 16×8, and factors rounded to bfloat16 (7 fraction bits) as they
//            enter the tensor cores: arrays and sums stay float32
//   tensor_copies   factors are rounded to bfloat16 before, into copies of half the size; 128×128 elements
//            per block; ldmatrix moves a tile from shared memory to a warp. C and F must be multiples of 8
//   wgmma    the same copies are multiplied by warpgroups of 128 threads: 64×16 by 16×128 in one
//            instruction, which reads both from shared memory while the threads go on. On GPUs of compute
//            capability 9.0 only
//
// The first two are here, the others in conv2d_few_channels.cu, conv2d_blocked.cu, conv2d_tensor.cu,
// conv2d_tensor_copies.cu and conv2d_wgmma.cu. Another rung, for 3×3 windows, multiplies less:
// conv2d_winograd.cu. The other kernels are flip_weight (for grad_x), sum_parts (of a weight gradient, in
// order), backward_bias, backward_bias_middle and backward_bias_end.
//
// Launch: naive and sum_parts one thread per element, blocks of 256; tiled (rows / 16, F / 16) blocks of 16×16;
// few_channels (rows / 256, F / 32) blocks of 256; blocked and tensor (rows / 128, F / 64) blocks of 128;
// backward_bias and backward_bias_middle (F / 32, shares) blocks of 32×8. Weight gradients have K²C rows; the
// third axis of their grid goes over parts of the pixels, each with its own sum.

#include "conv2d_flip.cuh"
#include "conv2d_patches.cuh"
#include "reduce.cuh"

extern "C" __global__ void conv2d_forward_naive(const float* x, const float* weight, const float* bias,
                                                float* y, int height, int width, int channels, int size,
                                                int padding, int filters, int relu, int rows) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * filters) return;
    int out_height = height + 2 * padding - size + 1, out_width = width + 2 * padding - size + 1;
    int f = index % filters, row = index / filters, n = row / out_width / out_height;
    int i = row / out_width % out_height - padding, j = row % out_width - padding;
    float sum = bias[f];
    for (int p = 0; p < size; p++)
        for (int q = 0; q < size; q++) {
            if (i + p < 0 || i + p >= height || j + q < 0 || j + q >= width) continue;
            const float* pixel = x + ((n * height + i + p) * width + j + q) * channels;
            const float* w = weight + (p * size + q) * channels * filters + f;
            for (int c = 0; c < channels; c++) sum += w[c * filters] * pixel[c];
        }
    y[index] = relu && sum < 0 ? 0 : sum;
}

// The pixels are split into parts, each summed by other threads: more work in parallel, and shorter sums
// round less.
extern "C" __global__ void conv2d_backward_weight_naive(const float* x, const float* grad_output,
                                                        float* parts, int height, int width, int channels,
                                                        int size, int padding, int filters, int rows,
                                                        int rows_per_part) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    int count = size * size * channels * filters;
    if (index >= count) return;
    int out_height = height + 2 * padding - size + 1, out_width = width + 2 * padding - size + 1;
    int f = index % filters, c = index / filters % channels, tap = index / filters / channels;
    int first = blockIdx.z * rows_per_part, last = min(rows, first + rows_per_part);
    float sum = 0;
    for (int row = first; row < last; row++) {
        int n = row / out_width / out_height;
        int i = row / out_width % out_height - padding + tap / size;
        int j = row % out_width - padding + tap % size;
        if (i < 0 || i >= height || j < 0 || j >= width) continue;
        sum += x[((n * height + i) * width + j) * channels + c] * grad_output[row * filters + f];
    }
    parts[blockIdx.z * count + index] = sum;
}

constexpr int TILE = 16;

extern "C" __global__ void conv2d_forward_tiled(const float* x, const float* weight, const float* bias,
                                                float* y, int height, int width, int channels, int size,
                                                int padding, int filters, int relu, int rows) {
    __shared__ float patches[TILE][TILE], weights[TILE][TILE];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    int row = blockIdx.x * TILE + threadIdx.y, f = blockIdx.y * TILE + threadIdx.x;
    Window window = window_of(s, row);
    float sum = 0;
    for (int k = 0; k < s.columns; k += TILE) {
        Offset left = offset_in_x(s, window, tap_of(s, k + threadIdx.x));
        Offset right = offset_in_matrix(k + threadIdx.y, s.columns, f, filters);
        patches[threadIdx.y][threadIdx.x] = left.exists ? x[left.value] : 0;
        weights[threadIdx.y][threadIdx.x] = right.exists ? weight[right.value] : 0;
        __syncthreads();  // both tiles are complete
        for (int e = 0; e < TILE; e++) sum += patches[threadIdx.y][e] * weights[e][threadIdx.x];
        __syncthreads();  // nothing reads them any more
    }
    if (row >= rows || f >= filters) return;
    sum += bias[f];
    y[row * filters + f] = relu && sum < 0 ? 0 : sum;
}

extern "C" __global__ void conv2d_backward_weight_tiled(const float* x, const float* grad_output,
                                                        float* parts, int height, int width, int channels,
                                                        int size, int padding, int filters, int rows,
                                                        int rows_per_part) {
    __shared__ float patches[TILE][TILE], grads[TILE][TILE];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    int column = blockIdx.x * TILE + threadIdx.y, f = blockIdx.y * TILE + threadIdx.x;
    int first = blockIdx.z * rows_per_part, last = min(rows, first + rows_per_part);
    Tap tap = tap_of(s, blockIdx.x * TILE + threadIdx.x);
    float sum = 0;
    for (int r = first; r < last; r += TILE) {
        int row = r + threadIdx.y;  // parts begin at multiples of TILE, so none reaches into the next
        Offset left = offset_in_x(s, window_of(s, row), tap);
        Offset right = offset_in_matrix(row, rows, f, filters);
        patches[threadIdx.y][threadIdx.x] = left.exists ? x[left.value] : 0;
        grads[threadIdx.y][threadIdx.x] = right.exists ? grad_output[right.value] : 0;
        __syncthreads();
        for (int e = 0; e < TILE; e++) sum += patches[e][threadIdx.y] * grads[e][threadIdx.x];
        __syncthreads();
    }
    if (column < s.columns && f < filters) parts[(blockIdx.z * s.columns + column) * filters + f] = sum;
}

extern "C" __global__ void conv2d_flip_weight(const float* weight, float* flipped, int channels, int filters) {
    flip(weight, flipped, channels, filters, [](float number) { return number; });
}

extern "C" __global__ void conv2d_sum_parts(const float* parts, float* total, int num_parts, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float sum = 0;
    for (int part = 0; part < num_parts; part++) sum += parts[part * count + index];
    total[index] = sum;
}

// The column sums of a matrix, rows × F. A block of 32×8 threads takes 32 columns and a share of the rows; a
// last launch, with one share, adds the sums of the one before. In double precision, because there may be
// millions of rows. All LOADS of a thread are on their way before it adds the first.
constexpr int LOADS = 8;
template <class Number, class Sum>
__device__ void sum_columns(const Number* matrix, Sum* sums, int rows, int filters) {
    __shared__ double of_warp[WARPS][32];  // a column for each lane
    int f = blockIdx.x * 32 + threadIdx.x;
    double sum = 0;
    int first = blockIdx.y * WARPS + threadIdx.y, step = gridDim.y * WARPS;
    for (int row = first; f < filters && row < rows; row += LOADS * step) {
        Number loaded[LOADS];
#pragma unroll
        for (int e = 0; e < LOADS; e++)
            loaded[e] = row + e * step < rows ? matrix[(row + e * step) * filters + f] : 0;
#pragma unroll
        for (int e = 0; e < LOADS; e++) sum += loaded[e];
    }
    of_warp[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || f >= filters) return;
    sums[blockIdx.y * filters + f] = sum_over_warps(of_warp, threadIdx.x);
}

extern "C" __global__ void conv2d_backward_bias(const float* grad_output, double* parts, int rows,
                                                int filters) {
    sum_columns(grad_output, parts, rows, filters);
}

extern "C" __global__ void conv2d_backward_bias_middle(const double* parts, double* sums, int num_parts,
                                                       int filters) {
    sum_columns(parts, sums, num_parts, filters);
}

extern "C" __global__ void conv2d_backward_bias_end(const double* parts, float* grad_bias, int num_parts,
                                                    int filters) {
    sum_columns(parts, grad_bias, num_parts, filters);
}
