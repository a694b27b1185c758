// Rectified linear unit. It moves two numbers per operation: as fast as memory allows.
//
//   forward   y = max(x, 0), NaN stays NaN
//   backward  grad_x = grad_output where y > 0, else 0
//
// Launch: one thread per element, blocks of 256.

extern "C" __global__ void relu_forward(const float* x, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = x[i] < 0 ? 0 : x[i];
}

extern "C" __global__ void relu_backward(const float* grad_output, const float* y, float* grad_x, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float result = y[i], gradient = grad_output[i];  // both on their way at once
    grad_x[i] = result > 0 ? gradient : 0;
}
