// How tensor cores add: products are exact, sums are not rounded but truncated.
//
// A sum of some products and of what was there before is computed at once. All summands are cut off at the same
// bit, counted from the largest of their exponents (that of a product being the sum of its factors'), then added
// exactly, and the total is cut off to float32. GPUs differ in the number of products that they add at once and
// in the bits that they keep. This is the bit-exact model of arXiv 2512.07004 (Khattak, Mikaitis: Accurate
// Models of NVIDIA Tensor Cores) and arXiv 2511.10909 (Xie et al.: MMA-Sim).
//
// The emulator adds as an H100 does. The interpreter of PTX (tests/helpers/ptx/tensor_cores.py) reads the table.
#pragma once

#include <climits>
#include <cmath>

namespace emulator {

struct TensorCore {
    int architecture;   // compute capability times ten, of this GPU and those after it
    int fraction_bits;  // kept behind the largest summand's first bit
    int bytes_at_once;  // of one factor of the products that are added at once
};
constexpr TensorCore TENSOR_CORES[] = {
    {80, 24, 16},  // Ampere, Ada: 4 products of TF32, 8 of bfloat16
    {90, 25, 32},  // Hopper, Blackwell: 8 products of TF32, 16 of bfloat16
};
constexpr TensorCore TENSOR_CORE = TENSOR_CORES[1];

UNCHECKED inline float truncated(double value) {
    float nearest = float(value);
    return std::fabs(nearest) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

// sum + a[0] · b[0] + … + a[count - 1] · b[count - 1], at once.
UNCHECKED inline float add_products(float sum, const float* a, const float* b, int count) {
    double exact = sum;
    int largest = sum == 0 ? INT_MIN / 2 : std::ilogb(sum);
    for (int i = 0; i < count; i++) {
        double product = double(a[i]) * b[i];
        exact += product;
        if (product != 0) largest = std::max(largest, std::ilogb(a[i]) + std::ilogb(b[i]));
    }
    if (!std::isfinite(exact)) return float(exact);
    int shift = TENSOR_CORE.fraction_bits - largest;
    double total = std::trunc(std::ldexp(double(sum), shift));
    for (int i = 0; i < count; i++) total += std::trunc(std::ldexp(double(a[i]) * b[i], shift));
    return truncated(std::ldexp(total, -shift));
}

}  // namespace emulator
