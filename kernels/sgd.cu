// Stochastic gradient descent with momentum, in place. It moves five numbers for six operations.
//
//   step      velocity = momentum · velocity + grad + weight_decay · weight
//             weight = weight - lr · velocity
//
// The learning rate lies in memory, so that a captured graph gets a new one at each launch.
//
// Launch: one thread per element, blocks of 256, one launch for all parameters. A network has dozens of them,
// most so small that a launch takes longer than the work.

struct Row {  // of the table, for one parameter
    float* weight;
    const float* grad;
    float* velocity;
    unsigned long long count, first_block;
};

// The row that this block works on. first_block grows from row to row.
__device__ __forceinline__ const Row& row_of_block(const Row* rows, int count) {
    int low = 0, high = count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (rows[middle].first_block <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return rows[low];
}

extern "C" __global__ void sgd_step(const unsigned long long* table, int parameters, const float* lr,
                                    float momentum, float weight_decay) {
    const Row& row = row_of_block(reinterpret_cast<const Row*>(table), parameters);
    unsigned long long i = (blockIdx.x - row.first_block) * blockDim.x + threadIdx.x;
    if (i >= row.count) return;
    float velocity = momentum * row.velocity[i] + (row.grad[i] + weight_decay * row.weight[i]);
    row.velocity[i] = velocity;
    row.weight[i] -= *lr * velocity;
}
