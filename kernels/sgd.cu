// Stochastic gradient descent with momentum, in place. It moves five numbers for six operations.
//
//   step      velocity = momentum · velocity + grad + weight_decay · weight
//             weight = weight - lr · velocity
//
// The learning rate lies in memory, so that a captured graph gets a new one at each launch.
//
// Launch: that of parameters.cuh.

#include "parameters.cuh"

struct Row {  // of the table, for one parameter
    float* weight;
    const float* grad;
    float* velocity;
    unsigned long long count, first_block;
};

extern "C" __global__ void sgd_step(const unsigned long long* table, int parameters, const float* lr,
                                    float momentum, float weight_decay) {
    Row row = row_of_block<Row>(table, parameters);
    unsigned long long i = (blockIdx.x - row.first_block) * blockDim.x + threadIdx.x;
    if (i >= row.count) return;
    // All loads come before the first store, after which the compiler would have to load again.
    float weight = row.weight[i], rate = *lr;
    float velocity = momentum * row.velocity[i] + (row.grad[i] + weight_decay * weight);
    row.velocity[i] = velocity;
    row.weight[i] = weight - rate * velocity;
}
