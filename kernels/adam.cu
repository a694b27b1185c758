// Adam with decoupled weight decay, in place. It moves seven numbers for 16 operations.
//
//   step      mean = mean + share1 · (grad - mean)                   share1 = 1 - beta1
//             square = beta2 · square + share2 · grad²               share2 = 1 - beta2
//             weight = weight - lr · (mean / c1 / (sqrt(square / c2) + epsilon) + weight_decay · weight)
//
// scalars: lr, c1 and c2, in memory, so that a captured graph gets new ones at each launch. The shares are
// computed by the caller, because 1 - beta2 in float would lose four of its seven digits.
//
// Launch: that of parameters.cuh.

#include "parameters.cuh"

struct Row {  // of the table, for one parameter
    float* weight;
    const float* grad;
    float* mean;
    float* square;
    unsigned long long count, first_block;
};

extern "C" __global__ void adam_step(const unsigned long long* table, int parameters, const float* scalars,
                                     float share1, float beta2, float share2, float epsilon,
                                     float weight_decay) {
    const Row& row = row_of_block<Row>(table, parameters);
    unsigned long long i = (blockIdx.x - row.first_block) * blockDim.x + threadIdx.x;
    if (i >= row.count) return;
    float lr = scalars[0], c1 = scalars[1], c2 = scalars[2];
    float weight = row.weight[i], grad = row.grad[i];
    float mean = row.mean[i] + share1 * (grad - row.mean[i]);
    float square = beta2 * row.square[i] + share2 * (grad * grad);
    row.mean[i] = mean;
    row.square[i] = square;
    row.weight[i] = weight - lr * (mean / c1 / (sqrtf(square / c2) + epsilon) + weight_decay * weight);
}
