// Batch normalisation of maps, pixels × channels, with the ReLU that may follow.
//
//   statistics      mean[c] = 1/M · sum over pixels of x, variance[c] = 1/M · sum over pixels of (x - mean)²
//   statistics_end  adds those of the blocks
//   forward         y = (x - mean) · scale / sqrt(variance + EPSILON) + shift          relu: max(y, 0)
//   sums            grad_shift[c] = sum over pixels of g, where g = grad_output         relu: where y > 0
//                   grad_scale[c] = sum over pixels of g · (x - mean) / sqrt(variance + EPSILON)
//   sums_end        adds those of the blocks
//   backward        grad_x = scale / sqrt(variance + EPSILON)
//                            · (g - grad_shift / M - (x - mean) · grad_scale / M / sqrt(variance + EPSILON))
//   fold            the weight and the bias of a convolution that makes y itself, if mean and variance are fixed
//
// A block of statistics and sums takes PIXELS_PER_THREAD pixels per thread; neighbouring threads read
// neighbouring numbers. One warp adds the blocks of a channel, in double precision and always in one order.
// A block's variance is about its own mean: it reads its pixels again, which are in a cache then, because a
// mean square less a squared mean would lose digits.
//
// Launch: forward, backward and fold one thread per element, blocks of 256; statistics and sums (M / pixels of a
// block, C / width) blocks of 256, where width, at most 256, is the number of channels of a block; *_end C / 8
// blocks of 256.

#include "reduce.cuh"

constexpr int THREADS = 32 * WARPS;
constexpr int PIXELS_PER_THREAD = 32;  // as in tinyunet/ops/batch_norm.py
constexpr float EPSILON = 1e-5f;

// What a thread of statistics and sums adds up: every step-th pixel of its block from first on, one channel.
struct Share {
    int channel, first, last, step, pixels_of_block;
};

__device__ __forceinline__ Share share_of(int channels, int width, int pixels) {
    Share s;
    s.step = THREADS / width;
    s.channel = blockIdx.y * width + threadIdx.x % width;
    int begin = blockIdx.x * PIXELS_PER_THREAD * s.step, row = threadIdx.x / width;
    s.last = min(pixels, begin + PIXELS_PER_THREAD * s.step);
    s.pixels_of_block = s.last - begin;
    s.first = row < s.step && s.channel < channels ? begin + row : s.last;
    return s;
}

// Over the threads of a block with the same channel. The first `width` threads get the sum of theirs.
__device__ __forceinline__ double sum_over_rows(double value, int width) {
    __shared__ double of_thread[THREADS];
    of_thread[threadIdx.x] = value;
    __syncthreads();
    double sum = 0;
    if (threadIdx.x < width)
        for (int t = threadIdx.x; t < THREADS / width * width; t += width) sum += of_thread[t];
    __syncthreads();  // the next sum may overwrite them
    return sum;
}

extern "C" __global__ void batch_norm_statistics(const float* x, double* means, double* squares,
                                                 int channels, int width, int pixels) {
    __shared__ float centres[THREADS];
    Share s = share_of(channels, width, pixels);
    float sum = 0;
    for (int pixel = s.first; pixel < s.last; pixel += s.step) sum += x[pixel * channels + s.channel];
    double total = sum_over_rows(sum, width);
    if (threadIdx.x < width) centres[threadIdx.x] = total / s.pixels_of_block;
    __syncthreads();
    float centre = centres[threadIdx.x % width], distances = 0, products = 0;
    for (int pixel = s.first; pixel < s.last; pixel += s.step) {
        float distance = x[pixel * channels + s.channel] - centre;
        distances += distance;
        products += distance * distance;
    }
    double left = sum_over_rows(distances, width), square = sum_over_rows(products, width);
    if (threadIdx.x >= width || s.channel >= channels) return;
    int part = s.channel * gridDim.x + blockIdx.x;
    means[part] = centre + left / s.pixels_of_block;  // the centre is rounded
    squares[part] = square - left * left / s.pixels_of_block;
}

extern "C" __global__ void batch_norm_statistics_end(const double* means, const double* squares, float* mean,
                                                     float* variance, int blocks, int pixels_of_block,
                                                     int pixels, int channels) {
    int channel = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (channel >= channels) return;  // the whole warp
    double centre = means[channel * blocks], sum = 0, square = 0;
    for (int block = lane; block < blocks; block += 32) {
        int count = min(pixels_of_block, pixels - block * pixels_of_block);
        double distance = means[channel * blocks + block] - centre;
        sum += count * distance;
        square += squares[channel * blocks + block] + count * distance * distance;
    }
    sum = sum_over_lanes(sum, 1, 32);
    square = sum_over_lanes(square, 1, 32) - sum * sum / pixels;
    if (lane > 0) return;
    mean[channel] = centre + sum / pixels;
    variance[channel] = square < 0 ? 0 : square / pixels;
}

// The numbers of one channel.
struct Channel {
    float mean, shift, deviation, factor;
};

__device__ __forceinline__ Channel channel_of(const float* mean, const float* variance, const float* scale,
                                              const float* shift, int c) {
    float deviation = sqrtf(variance[c] + EPSILON);
    return {mean[c], shift[c], deviation, scale[c] / deviation};
}

__device__ __forceinline__ float normalised(float x, Channel c) {
    return (x - c.mean) * c.factor + c.shift;
}

extern "C" __global__ void batch_norm_forward(const float* x, const float* mean, const float* variance,
                                              const float* scale, const float* shift, float* y, int channels,
                                              int relu, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float value = normalised(x[i], channel_of(mean, variance, scale, shift, i % channels));
    y[i] = relu && value < 0 ? 0 : value;
}

extern "C" __global__ void batch_norm_sums(const float* grad_output, const float* x, const float* mean,
                                           const float* variance, const float* scale, const float* shift,
                                           double* sums, double* dots, int channels, int width, int relu,
                                           int pixels) {
    Share s = share_of(channels, width, pixels);
    float sum = 0, dot = 0;
    if (s.first < s.last) {
        Channel c = channel_of(mean, variance, scale, shift, s.channel);
        for (int pixel = s.first; pixel < s.last; pixel += s.step) {
            int i = pixel * channels + s.channel;
            float grad = relu && !(normalised(x[i], c) > 0) ? 0 : grad_output[i];
            sum += grad;
            dot += grad * (x[i] - c.mean);
        }
    }
    double total = sum_over_rows(sum, width), total_dot = sum_over_rows(dot, width);
    if (threadIdx.x >= width || s.channel >= channels) return;
    sums[s.channel * gridDim.x + blockIdx.x] = total;
    dots[s.channel * gridDim.x + blockIdx.x] = total_dot;
}

extern "C" __global__ void batch_norm_sums_end(const double* sums, const double* dots, const float* variance,
                                               float* grad_scale, float* grad_shift, int blocks,
                                               int channels) {
    int channel = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (channel >= channels) return;  // the whole warp
    double sum = 0, dot = 0;
    for (int block = lane; block < blocks; block += 32) {
        sum += sums[channel * blocks + block];
        dot += dots[channel * blocks + block];
    }
    sum = sum_over_lanes(sum, 1, 32);
    dot = sum_over_lanes(dot, 1, 32);
    if (lane > 0) return;
    grad_shift[channel] = sum;
    grad_scale[channel] = dot / sqrtf(variance[channel] + EPSILON);
}

extern "C" __global__ void batch_norm_backward(const float* grad_output, const float* x, const float* mean,
                                               const float* variance, const float* scale, const float* shift,
                                               const float* grad_scale, const float* grad_shift,
                                               float* grad_x, int channels, int relu, int pixels, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int channel = i % channels;
    Channel c = channel_of(mean, variance, scale, shift, channel);
    float grad = relu && !(normalised(x[i], c) > 0) ? 0 : grad_output[i];
    float normal = (x[i] - c.mean) / c.deviation;
    grad_x[i] = c.factor * (grad - (grad_shift[channel] + normal * grad_scale[channel]) / pixels);
}

extern "C" __global__ void batch_norm_fold(const float* weight, const float* mean, const float* variance,
                                           const float* scale, const float* shift, float* folded, float* bias,
                                           int filters, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    Channel c = channel_of(mean, variance, scale, shift, i % filters);
    folded[i] = weight[i] * c.factor;
    if (i < filters) bias[i] = c.shift - c.mean * c.factor;
}
