// Stochastic gradient descent with momentum, in place: five numbers moved for four operations.
//
//   step      velocity = momentum · velocity + grad + weight_decay · weight
//             weight = weight - lr · velocity
//
// Launch: a thread an element, blocks of 256; one launch a parameter.

extern "C" __global__ void sgd_momentum_step(float* weight, const float* grad, float* velocity, float lr,
                                             float momentum, float weight_decay, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    velocity[i] = momentum * velocity[i] + (grad[i] + weight_decay * weight[i]);
    weight[i] -= lr * velocity[i];
}
