// Dropout with a counter-based generator: a function of (seed, i) decides whether element i is kept, the same
// as in tinyunet/ops/dropout.py, bit for bit. So there is no state and no mask in memory, and backward is
// forward on the gradient.
//
//   forward   y[i] = x[i] · scale if uniform(seed, i) >= p, else 0
//
// The seed lies in memory, so that a captured graph gets a new one at each launch.
//
// Launch: one thread per element, blocks of 256.

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); its upper 53 bits give a number in [0, 1).
__device__ __forceinline__ double uniform(unsigned long long seed, int i) {
    unsigned long long bits = (i + 1ull) * 0x9E3779B97F4A7C15ull + seed;
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
    bits = bits ^ (bits >> 31);
    return (bits >> 11) * (1.0 / 9007199254740992.0);  // 2^-53
}

extern "C" __global__ void dropout_forward(const float* x, double p, float scale,
                                           const unsigned long long* seed, float* y, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = uniform(*seed, i) >= p ? x[i] * scale : 0;
}
