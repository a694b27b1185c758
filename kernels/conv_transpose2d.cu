// Up-convolution: 2×2, stride 2. Each input pixel paints a square of four output pixels, none overlapping.
//
//   y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] · x[n,i,j,c], then maybe ReLU
//   grad_x[n,i,j,c] = sum over p,q,f of weight[p,q,c,f] · grad_output[n,2i+p,2j+q,f]
//   grad_weight[p,q,c,f] = sum over n,i,j of x[n,i,j,c] · grad_output[n,2i+p,2j+q,f]
//
// Rungs of all three:
//
//   naive    forward, backward_input, backward_weight: a thread an element of the result; every factor is read
//            from memory anew. Of the weight gradient a thread has the pixels of one part; conv2d_sum_parts
//            adds the parts
//   product  what all pixels paint is a product of matrices, pixels × C by C × 4F, that is, a 1×1 convolution
//            with 4F filters: conv2d's fastest rung computes it. The rest moves numbers:
//
//   swap_axes  the weight as C × 4F from 4 × C × F, and its gradient back
//   paint      the squares from a row of 4F numbers each, with bias and ReLU
//   gather     such rows from the squares of a gradient
//
// Moving them once more costs 8 bytes a number of y; reading a factor anew, 8 bytes a multiplication.
//
// The gradient of the bias is conv2d's. Launch: a thread an element of what is written, blocks of 256.

extern "C" __global__ void conv_transpose2d_forward_naive(const float* x, const float* weight, const float* bias,
                                                    float* y, int width, int channels, int filters, int relu,
                                                    int count) {
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

extern "C" __global__ void conv_transpose2d_backward_input_naive(const float* grad_output, const float* weight,
                                                           float* grad_x, int width, int channels,
                                                           int filters, int count) {
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
                                                            int filters, int pixels, int pixels_a_part,
                                                            int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int f = index % filters, c = index / filters % channels, tap = index / filters / channels % 4;
    int first = index / filters / channels / 4 * pixels_a_part;
    int last = min(pixels, first + pixels_a_part);
    float sum = 0;
    for (int pixel = first; pixel < last; pixel++) {
        int row = pixel / width, j = pixel % width;
        int painted = (2 * row + tap / 2) * 2 * width + 2 * j + tap % 2;
        sum += x[pixel * channels + c] * grad_output[painted * filters + f];
    }
    parts[index] = sum;
}

// Of an array rows × columns × filters, the one with rows and columns exchanged.
extern "C" __global__ void conv_transpose2d_swap_axes(const float* from, float* to, int rows, int columns,
                                                      int filters, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int f = index % filters, row = index / filters % rows, column = index / filters / rows;
    to[index] = from[(row * columns + column) * filters + f];
}

// Where the number of y with this index is in the rows: pixel (i, j), then p, q, f.
__device__ __forceinline__ int place_in_rows(int index, int width, int filters) {
    int f = index % filters, column = index / filters % (2 * width), row = index / filters / (2 * width);
    int pixel = row / 2 * width + column / 2, tap = row % 2 * 2 + column % 2;
    return (pixel * 4 + tap) * filters + f;
}

extern "C" __global__ void conv_transpose2d_paint(const float* rows, const float* bias, float* y, int width,
                                                  int filters, int relu, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float value = rows[place_in_rows(index, width, filters)] + bias[index % filters];
    y[index] = relu && value < 0 ? 0 : value;
}

extern "C" __global__ void conv_transpose2d_gather(const float* grad_output, float* rows, int width,
                                                   int filters, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < count) rows[place_in_rows(index, width, filters)] = grad_output[index];
}
