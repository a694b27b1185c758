// The last layer, a 1×1 convolution, with the loss and all gradients, in one pass over the features.
//
//   forward   z[k] = bias[k] + sum over c of weight[c,k] · x[c]                     for each pixel
//             p[k] = exp(z[k]) / sum over k' of exp(z[k'])
//             energy = sum over pixels of pixel_weight · -log p[target]
//             grad_z[k] = pixel_weight · (p[k] - [k = target]), the gradient of the bias once summed
//             grad_x[c] = sum over k of weight[c,k] · grad_z[k]
//             grad_weight[c,k] = sum over pixels of x[c] · grad_z[k]
//   backward  the gradients times the gradient of the loss, in place
//
// A pixel takes about 6 · C · K operations, and moves 4 · C + 8 bytes in and 4 · C out. Memory is the limit,
// so forward reads each feature once and keeps z and grad_z in registers. With C = 64 and K = 2 that is 520
// bytes; the two ops one after the other move 840, because they read x twice and move z and grad_z eight
// times.
//
// Launch: forward one block of 256 per part of the pixels. Several lanes of a warp share a pixel, each with
// four channels: as many as needed, rounded up to a power of two. So a warp loads and stores 512 contiguous
// bytes, 128 bits per lane: two pixels with C = 64, eight with C = 16. A thread keeps its four channels for
// all pixels, with their weights and its share of grad_weight in registers. C must be a multiple of 4 up to
// 128, K at most 4. Each block leaves one row of sums; conv2d_backward_bias_end adds the rows. backward takes
// any number of blocks.

#include "reduce.cuh"

constexpr int THREADS = 32 * WARPS, MAX_CLASSES = 4, MAX_CHANNELS = 128;

__device__ __forceinline__ float4& as_float4(const float& first) {
    return *reinterpret_cast<float4*>(const_cast<float*>(&first));
}

// A row of sums has the columns grad_weight (C, K), four for grad_bias, and the energy.
extern "C" __global__ void __launch_bounds__(256)
    linear_cross_entropy_forward(const float* x, const float* weight, const float* bias, const int* target,
                                 const float* pixel_weight, float* grad_x, double* parts, int channels,
                                 int classes, int lanes, int with_gradient, int pixels_per_part, int count) {
    __shared__ __align__(16) float products_of_warp[WARPS][MAX_CLASSES * MAX_CHANNELS];
    __shared__ double others_of_warp[WARPS][MAX_CLASSES + 1];
    int c = threadIdx.x % lanes * 4, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float w[MAX_CLASSES][4] = {}, products[MAX_CLASSES][4] = {}, biases[MAX_CLASSES] = {};
    double energy = 0, sums[MAX_CLASSES] = {};
#pragma unroll
    for (int k = 0; k < MAX_CLASSES; k++)
        if (k < classes) {
            biases[k] = bias[k];
            for (int e = 0; e < 4 && c < channels; e++) w[k][e] = weight[(c + e) * classes + k];
        }

    int first = blockIdx.x * pixels_per_part, last = min(count, first + pixels_per_part);
    for (int start = first; start < last; start += THREADS / lanes) {
        int pixel = start + threadIdx.x / lanes;
        bool takes_part = pixel < last && c < channels;
        float4 v = takes_part ? as_float4(x[pixel * channels + c]) : make_float4(0, 0, 0, 0);
        int label = pixel < last ? target[pixel] : -1;  // negative: ignored
        float scale = label >= 0 ? pixel_weight[pixel] : 0;

        float z[MAX_CLASSES] = {}, largest = 0, total = 0, of_label = 0;
#pragma unroll
        for (int k = 0; k < MAX_CLASSES; k++)
            if (k < classes) {
                float own = w[k][0] * v.x + w[k][1] * v.y + w[k][2] * v.z + w[k][3] * v.w;
                z[k] = sum_over_lanes(own, 1, lanes) + biases[k];
                largest = k == 0 ? z[k] : fmaxf(largest, z[k]);
            }
#pragma unroll
        for (int k = 0; k < MAX_CLASSES; k++)
            if (k < classes) {
                if (k == label) of_label = z[k] - largest;
                z[k] = expf(z[k] - largest);
                total += z[k];
            }
        if (label >= 0) energy += (double)scale * (logf(total) - of_label);
        if (!with_gradient) continue;

        float4 grad = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < MAX_CLASSES; k++)
            if (k < classes) {
                float g = label < 0 ? 0 : scale * (z[k] / total - (k == label));
                sums[k] += g;
                grad = make_float4(grad.x + g * w[k][0], grad.y + g * w[k][1], grad.z + g * w[k][2],
                                   grad.w + g * w[k][3]);
                products[k][0] += g * v.x;
                products[k][1] += g * v.y;
                products[k][2] += g * v.z;
                products[k][3] += g * v.w;
            }
        if (takes_part) as_float4(grad_x[pixel * channels + c]) = grad;
    }

    // All lanes of a pixel have the same energy and sums. Only those of the first lane are added.
    bool counts = threadIdx.x % lanes == 0;
    energy = sum_over_lanes(counts ? energy : 0, 1, 32);
    if (lane == 0) others_of_warp[warp][MAX_CLASSES] = energy;
#pragma unroll
    for (int k = 0; k < MAX_CLASSES; k++) {
        sums[k] = sum_over_lanes(counts ? sums[k] : 0, 1, 32);
        if (lane == 0) others_of_warp[warp][k] = sums[k];
        for (int e = 0; e < 4; e++) products[k][e] = sum_over_lanes(products[k][e], lanes, 32);
        if (lane < lanes && c < channels)
            as_float4(products_of_warp[warp][k * MAX_CHANNELS + c]) =
                make_float4(products[k][0], products[k][1], products[k][2], products[k][3]);
    }
    __syncthreads();
    double* row = parts + blockIdx.x * (channels * classes + MAX_CLASSES + 1);
    for (int index = threadIdx.x; index < channels * classes; index += THREADS) {
        int channel = index % channels, k = index / channels;
        row[channel * classes + k] = sum_over_warps(products_of_warp, k * MAX_CHANNELS + channel);
    }
    if (threadIdx.x <= MAX_CLASSES)
        row[channels * classes + threadIdx.x] = sum_over_warps(others_of_warp, threadIdx.x);
}

// In training the gradient of the loss is 1, and nothing else is read.
extern "C" __global__ void linear_cross_entropy_backward(const float* grad_output, float* grad_x,
                                                         float* grad_weight, float* grad_bias, int x_count,
                                                         int weight_count, int bias_count) {
    float scale = grad_output[0];
    if (scale == 1) return;
    int begin = blockIdx.x * blockDim.x + threadIdx.x, stride = gridDim.x * blockDim.x;
    for (int i = begin; i < x_count; i += stride) grad_x[i] *= scale;
    for (int i = begin; i < weight_count; i += stride) grad_weight[i] *= scale;
    for (int i = begin; i < bias_count; i += stride) grad_bias[i] *= scale;
}
