// Up-convolution: 2×2, stride 2. Each input pixel is scattered to a square of four output pixels; squares do
// not overlap.
//
//   y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] · x[n,i,j,c], then maybe ReLU
//   grad_x[n,i,j,c] = sum over p,q,f of weight[p,q,c,f] · grad_output[n,2i+p,2j+q,f]
//   grad_weight[p,q,c,f] = sum over n,i,j of x[n,i,j,c] · grad_output[n,2i+p,2j+q,f]
//
// Rungs of all three:
//
//   naive    forward, backward_input, backward_weight: one thread per element of the result; every factor is
//            read from memory each time. For the weight gradient a thread adds the pixels of one part;
//            conv2d_sum_parts adds the parts
//   product  all squares are a product of matrices, pixels × C by C × 4F, that is, a 1×1 convolution with 4F
//            filters, which conv2d's fastest rung computes. The other kernels move numbers:
//
//   swap_axes  the weight from 4 × C × F to C × 4F, and its gradient back
//   scatter    each row of 4F numbers to its square, with bias and ReLU
//   gather     each square of a gradient to such a row
//   swap_axes_by_four, scatter_by_four and gather_by_four   the same with four filters in each thread, which
//              divides as often as for one: for multiples of four filters, all of which are counted in fours
//
// Moving them once more costs 8 bytes per number of y; reading the factors each time, 8 bytes per
// multiplication.
//
// The gradient of the bias is conv2d's. Launch: one thread per element, or four elements, written, blocks of
// 256.

extern "C" __global__ void conv_transpose2d_forward_naive(const float* x, const float* weight,
                                                          const float* bias, float* y, int width,
                                                          int channels, int filters, int relu, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int f = index % filters, column = index / filters % (2 * width), row = index / filters / (2 * width);
    // Two rows of y for each row of x, and heights are even: the batch needs no index of its own.
    const float* pixel = x + ((row / 2) * width + column / 2) * channels;
    const float* w = weight + (row % 2 * 2 + column % 2) * channels * filters + f;
    float sum = bias[f];
    for (int c = 0; c < channels; c++) sum += w[c * filters] * pixel[c];
    y[index] = relu && sum < 0 ? 0 : sum;
}

extern "C" __global__ void conv_transpose2d_backward_input_naive(const float* grad_output,
                                                                 const float* weight, float* grad_x,
                                                                 int width, int channels, int filters,
                                                                 int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int c = index % channels, j = index / channels % width, row = index / channels / width;
    float sum = 0;
    for (int tap = 0; tap < 4; tap++) {
        const float* w = weight + (tap * channels + c) * filters;
        const float* g = grad_output + ((2 * row + tap / 2) * 2 * width + 2 * j + tap % 2) * filters;
        for (int f = 0; f < filters; f++) sum += w[f] * g[f];
    }
    grad_x[index] = sum;
}

extern "C" __global__ void conv_transpose2d_backward_weight_naive(const float* x, const float* grad_output,
                                                                  float* parts, int width, int channels,
                                                                  int filters, int pixels,
                                                                  int pixels_per_part, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int f = index % filters, c = index / filters % channels, tap = index / filters / channels % 4;
    int first = index / filters / channels / 4 * pixels_per_part;
    int last = min(pixels, first + pixels_per_part);
    float sum = 0;
    for (int pixel = first; pixel < last; pixel++) {
        int row = pixel / width, j = pixel % width;
        int y_pixel = (2 * row + tap / 2) * 2 * width + 2 * j + tap % 2;
        sum += x[pixel * channels + c] * grad_output[y_pixel * filters + f];
    }
    parts[index] = sum;
}

// Exchange rows and columns of an array rows × columns × filters.
template <class Number>
__device__ __forceinline__ void swap_axes(const Number* from, Number* to, int rows, int columns, int filters,
                                          int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int f = index % filters, row = index / filters % rows, column = index / filters / rows;
    to[index] = from[(row * columns + column) * filters + f];
}

extern "C" __global__ void conv_transpose2d_swap_axes(const float* from, float* to, int rows, int columns,
                                                      int filters, int count) {
    swap_axes(from, to, rows, columns, filters, count);
}

extern "C" __global__ void conv_transpose2d_swap_axes_by_four(const float* from, float* to, int rows,
                                                              int columns, int filters, int count) {
    swap_axes(reinterpret_cast<const float4*>(from), reinterpret_cast<float4*>(to), rows, columns, filters,
              count);
}

// The index in the rows, pixel (i, j) then p, q, f, of the number with this index in y.
__device__ __forceinline__ int index_in_rows(int index, int width, int filters) {
    int f = index % filters, column = index / filters % (2 * width), row = index / filters / (2 * width);
    int pixel = row / 2 * width + column / 2, tap = row % 2 * 2 + column % 2;
    return (pixel * 4 + tap) * filters + f;
}

__device__ __forceinline__ float biased(float value, float bias, int relu) {
    value += bias;
    return relu && value < 0 ? 0 : value;
}

extern "C" __global__ void conv_transpose2d_scatter(const float* rows, const float* bias, float* y, int width,
                                                    int filters, int relu, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    y[index] = biased(rows[index_in_rows(index, width, filters)], bias[index % filters], relu);
}

extern "C" __global__ void conv_transpose2d_scatter_by_four(const float* rows, const float* bias, float* y,
                                                            int width, int filters, int relu, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float4 v = reinterpret_cast<const float4*>(rows)[index_in_rows(index, width, filters)];
    float4 b = reinterpret_cast<const float4*>(bias)[index % filters];
    reinterpret_cast<float4*>(y)[index] = make_float4(biased(v.x, b.x, relu), biased(v.y, b.y, relu),
                                                      biased(v.z, b.z, relu), biased(v.w, b.w, relu));
}

extern "C" __global__ void conv_transpose2d_gather(const float* grad_output, float* rows, int width,
                                                   int filters, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) rows[index_in_rows(index, width, filters)] = grad_output[index];
}

extern "C" __global__ void conv_transpose2d_gather_by_four(const float* grad_output, float* rows, int width,
                                                           int filters, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int to = index_in_rows(index, width, filters);
    reinterpret_cast<float4*>(rows)[to] = reinterpret_cast<const float4*>(grad_output)[index];
}
