// Up-convolution: 2×2, stride 2. Each input pixel paints a square of four output pixels, none overlapping.
//
//   forward          y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] · x[n,i,j,c], then maybe ReLU
//   backward_input   grad_x[n,i,j,c] = sum over p,q,f of weight[p,q,c,f] · grad_output[n,2i+p,2j+q,f]
//   backward_weight  parts[part,p,q,c,f] = sum over n,i,j of x[n,i,j,c] · grad_output[n,2i+p,2j+q,f],
//                    the pixels of one part; conv2d_sum_parts then adds the parts
//
// The gradient of the bias is conv2d's. Launch: a thread an element of what is written, blocks of 256.

extern "C" __global__ void conv_transpose2d_forward(const float* x, const float* weight, const float* bias,
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

extern "C" __global__ void conv_transpose2d_backward_input(const float* grad_output, const float* weight,
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

extern "C" __global__ void conv_transpose2d_backward_weight(const float* x, const float* grad_output,
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
