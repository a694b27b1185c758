// The paper's loss, with its gradient in the same pass, because the probabilities are at hand.
//
//   forward       p[k] = exp(logits[k]) / sum over k' of exp(logits[k'])       for each pixel
//                 energy = sum over pixels of weight · -log p[target]
//                 grad_logits[k] = weight · (p[k] - [k = target])
//   forward_end   adds the energies of the blocks
//   backward      grad_logits · grad_loss
//
// Launch: forward one thread per pixel in blocks of 256, each of which leaves the sum of its pixels in double
// precision; forward_end a single block of 256; backward one thread per element. Sums and gradients stay in
// the GPU's memory, so that nothing waits for a number.

#include "reduce.cuh"

extern "C" __global__ void softmax_cross_entropy_forward(const float* logits, const int* target,
                                                         const float* weight, double* energy_of_block,
                                                         float* grad_logits, int classes, int count) {
    int pixel = blockIdx.x * blockDim.x + threadIdx.x;
    double energy = 0;
    if (pixel < count) {
        const float* z = logits + pixel * classes;
        float* grad = grad_logits + pixel * classes;
        int label = target[pixel];  // negative: ignored
        float largest = z[0], total = 0;
        for (int k = 1; k < classes; k++) largest = fmaxf(largest, z[k]);
        for (int k = 0; k < classes; k++) total += expf(z[k] - largest);
        for (int k = 0; k < classes; k++)
            grad[k] = label < 0 ? 0 : weight[pixel] * (expf(z[k] - largest) / total - (k == label));
        if (label >= 0) energy = (double)weight[pixel] * (logf(total) - (z[label] - largest));
    }
    energy = sum_over_block(energy);  // outside the branch, because all threads of the block take part
    if (threadIdx.x == 0) energy_of_block[blockIdx.x] = energy;
}

extern "C" __global__ void softmax_cross_entropy_forward_end(const double* energy_of_block, float* loss,
                                                             int blocks) {
    double energy = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) energy += energy_of_block[i];
    energy = sum_over_block(energy);
    if (threadIdx.x == 0) *loss = energy;
}

extern "C" __global__ void softmax_cross_entropy_backward(const float* grad_logits, const float* grad_loss,
                                                          float* grad, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) grad[i] = *grad_loss * grad_logits[i];
}
