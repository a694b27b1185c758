// Convolution with stride 1, from naive to fast.
//
//   y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] · x[n,i+p-padding,j+q-padding,c]     (0 outside of x)
//
// Channels last, this is a matrix product without a matrix in memory ("implicit"): y is pixels × F, weight is K²C × F as
// it lies, and row n,i,j of the matrix between them is the window of x at that pixel, K²C numbers:
//
//   y = patches · weight        grad_weight = patchesᵀ · grad_output        grad_x = forward, with the weight turned
//
// Rungs of forward (and so of the gradient of x) and of backward_weight:
//
//   naive    a thread an element of the result, everything read from memory anew
//
// The other kernels: turn_weight (for grad_x), sum_parts (the parts of a weight gradient, in order), backward_bias.

extern "C" __global__ void conv2d_forward_naive(const float* x, const float* weight, const float* bias, float* y,
                                                int height, int width, int channels, int size, int padding,
                                                int filters, int relu, int rows) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * filters) return;
    int out_height = height + 2 * padding - size + 1, out_width = width + 2 * padding - size + 1;
    int f = index % filters, row = index / filters;
    int j = row % out_width - padding, i = row / out_width % out_height - padding, n = row / out_width / out_height;
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

// The pixels are cut into parts, each summed by other threads: more to do at once, and shorter sums round less.
extern "C" __global__ void conv2d_backward_weight_naive(const float* x, const float* grad_output, float* parts,
                                                        int height, int width, int channels, int size, int padding,
                                                        int filters, int rows, int rows_a_part) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    int count = size * size * channels * filters;
    if (index >= count) return;
    int out_height = height + 2 * padding - size + 1, out_width = width + 2 * padding - size + 1;
    int f = index % filters, c = index / filters % channels, tap = index / filters / channels;
    int first = blockIdx.z * rows_a_part, last = min(rows, first + rows_a_part);
    float sum = 0;
    for (int row = first; row < last; row++) {
        int n = row / out_width / out_height;
        int i = row / out_width % out_height - padding + tap / size, j = row % out_width - padding + tap % size;
        if (i < 0 || i >= height || j < 0 || j >= width) continue;
        sum += x[((n * height + i) * width + j) * channels + c] * grad_output[row * filters + f];
    }
    parts[blockIdx.z * count + index] = sum;
}

// grad_x is a convolution of grad_output with the window turned by 180 degrees and its channels exchanged.
extern "C" __global__ void conv2d_turn_weight(const float* weight, float* turned, int channels, int filters, int taps,
                                              int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int c = index % channels, f = index / channels % filters, tap = index / channels / filters;
    turned[index] = weight[((taps - 1 - tap) * channels + c) * filters + f];
}

extern "C" __global__ void conv2d_sum_parts(const float* parts, float* sum, int number, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float total = 0;
    for (int part = 0; part < number; part++) total += parts[part * count + index];
    sum[index] = total;
}

// Column sums of a rows × F matrix. A block of 32×8 threads takes 32 columns and a share of the rows; a second launch,
// with one share, adds the sums of the first. In double precision: there may be millions of rows.
template <class Number, class Sum>
__device__ void sum_columns(const Number* matrix, Sum* sums, int rows, int filters) {
    __shared__ double of_thread[8][32];
    int f = blockIdx.x * 32 + threadIdx.x;
    double sum = 0;
    if (f < filters)
        for (int row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8) sum += matrix[row * filters + f];
    of_thread[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || f >= filters) return;
    for (int y = 1; y < 8; y++) sum += of_thread[y][threadIdx.x];
    sums[blockIdx.y * filters + f] = sum;
}

extern "C" __global__ void conv2d_backward_bias(const float* grad_output, double* parts, int rows, int filters) {
    sum_columns(grad_output, parts, rows, filters);
}

extern "C" __global__ void conv2d_backward_bias_end(const double* parts, float* grad_bias, int number, int filters) {
    sum_columns(parts, grad_bias, number, filters);
}
