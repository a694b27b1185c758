// Maximum over 2×2 windows that do not overlap, and its place in the window as one byte.
//
//   forward   y[n,i,j,c] = max over p,q of x[n,2i+p,2j+q,c], place = 2p+q of the first maximum or NaN
//   backward  grad_x[n,2i+p,2j+q,c] = grad_output[n,i,j,c] where place[n,i,j,c] = 2p+q, else 0
//
// Launch: one thread per element of y or grad_output, blocks of 256. Neighbours in a warp are neighbours in
// c.

extern "C" __global__ void max_pool2d_forward(const float* x, float* y, unsigned char* place, int width,
                                              int channels, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int c = i % channels, j = i / channels % width, row = i / channels / width;  // row = n · height + i
    int line = 2 * width * channels;                                             // one row of x
    const float* corner = x + 2 * row * line + 2 * j * channels + c;
    float best = corner[0];
    int at = 0;
    for (int k = 1; k < 4; k++) {
        float value = corner[k / 2 * line + k % 2 * channels];
        if (value > best || (value != value && best == best)) {
            best = value;
            at = k;
        }
    }
    y[i] = best;
    place[i] = at;
}

extern "C" __global__ void max_pool2d_backward(const float* grad_output, const unsigned char* place,
                                               float* grad_x, int width, int channels, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int c = i % channels, j = i / channels % width, row = i / channels / width;
    int line = 2 * width * channels;
    float* corner = grad_x + 2 * row * line + 2 * j * channels + c;
    for (int k = 0; k < 4; k++) corner[k / 2 * line + k % 2 * channels] = place[i] == k ? grad_output[i] : 0;
}
