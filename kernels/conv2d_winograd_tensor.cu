// The rung "winograd_tensor" of conv2d: the products of the rung "winograd" on tensor cores, in float32 to
// rounding. conv2d_winograd.cu has the equations and the transforms.
//
// Tensor cores multiply numbers of 11 significant bits (TF32). So a factor is split into two of them, high and
// low, and the product is high · high + high · low + low · high, to 2^-21 of it: the fourth, low · low, is no
// more than 2^-22. Tensor cores also cut off what they add instead of rounding it. Such an error has the same
// sign each time, and so grows with the number of summands. They therefore add up one stage of tiles only, and
// an addition that rounds adds its sum to those of the stages before. Both ideas are from Ootomo and Yokota
// 2022, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
// performance", arXiv 2203.03341; CUTLASS has the three products as OpMultiplyAddFastF32.
// tests/kernels/test_winograd_tensor.py bounds the error.
//
// Launch: multiply and multiply_transposed blocks of 64 threads for 64×64 results, the third axis of the grid
// as in conv2d_winograd.cu. C and F must be multiples of 4, and rows_per_part one of STAGE_DEPTH.

#include "conv2d_patches.cuh"

constexpr int TILE_ROWS = 64, TILE_COLUMNS = 64, STAGES = 3, STAGE_DEPTH = 16;

#include "conv2d_tensor.cuh"

constexpr int FREQUENCIES = 36;
constexpr int STEPS = STAGE_DEPTH / 8;  // each as deep as one instruction
constexpr int OWN = STAGE_DEPTH / 4;    // numbers along the depth that a lane has: two for each step

// The registers of a factor in one instruction, each number as the sum of two of TF32, to 2^-23 of it. The
// first is rounded: cvt.rna.tf32 would take twice as many instructions, because it leaves infinities alone. Of
// the second, which has twelve bits, tensor cores ignore the last.
template <int REGISTERS>
struct Halves {
    unsigned high[REGISTERS], low[REGISTERS];

    __device__ __forceinline__ void split(int i, float value) {
        high[i] = __float_as_uint(value) + 0x1000 & 0xffffe000;
        low[i] = __float_as_uint(value - __uint_as_float(high[i]));
    }
};

// A tile whose rows are a stage's depth. Lanes that read at once read four rows, four rows apart: these
// exchange groups of SPREAD columns, so that the four are in different banks.
template <int COLUMNS, int SPREAD>
struct __align__(16) DepthFirst {
    float numbers[STAGE_DEPTH][COLUMNS];

    __device__ __forceinline__ float& at(int depth, int column) {
        return numbers[depth][column ^ depth / 4 % 4 * SPREAD];
    }
};
using Right = DepthFirst<TILE_COLUMNS, 4>;

// An instruction takes eight numbers along the depth from each factor, two of them from each of four lanes. As
// they may be added in any order, lane t of four has the depths 4t to 4t+3 of a stage. Columns, too, may stand
// in any order: column c of piece n is the n-th after first_of_four(c). So a lane reads four numbers at once,
// and the four lanes of a row write 64 bytes at once.
__device__ __forceinline__ int first_of_four(int column) {
    return warp_column() + column / 2 * 4 + column % 2 * 16;
}

// read_left(m, rows) reads what this lane has of its two rows of piece m.
template <class ReadLeft>
__device__ __forceinline__ void multiply_stage(ReadLeft read_left, Right& right, Pieces& pieces) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Halves<2> b[4][STEPS];
#pragma unroll
    for (int k = 0; k < OWN; k++) {
        float4 columns = as_float4(right.at(OWN * t + k, first_of_four(g)));
        b[0][k / 2].split(k % 2, columns.x), b[1][k / 2].split(k % 2, columns.y);
        b[2][k / 2].split(k % 2, columns.z), b[3][k / 2].split(k % 2, columns.w);
    }
#pragma unroll
    for (int m = 0; m < 4; m++) {
        float rows[2][OWN];
        read_left(m, rows);
        Halves<4> a[STEPS];
#pragma unroll
        for (int k = 0; k < OWN; k++)
#pragma unroll
            for (int half = 0; half < 2; half++) a[k / 2].split(k % 2 * 2 + half, rows[half][k]);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            float sum[4] = {};
#pragma unroll
            for (int step = 0; step < STEPS; step++) {  // the small products first
                multiply_tf32(sum, a[step].low, b[n][step].high);
                multiply_tf32(sum, a[step].high, b[n][step].low);
            }
#pragma unroll
            for (int step = 0; step < STEPS; step++) multiply_tf32(sum, a[step].high, b[n][step].high);
#pragma unroll
            for (int e = 0; e < 4; e++) pieces.sum[m][n][e] += sum[e];
        }
    }
}

// row_of(m, half) is a row of this lane, counted from the block's first.
template <class RowOf>
__device__ __forceinline__ void write_pieces(float* result, int rows, int columns, const Pieces& pieces,
                                             RowOf row_of) {
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = blockIdx.x * TILE_ROWS + row_of(m, e / 2);
            int column = blockIdx.y * TILE_COLUMNS + first_of_four(threadIdx.x % 4 * 2 + e % 2);
            if (row < rows && column < columns)
                *reinterpret_cast<float4*>(result + row * columns + column) =
                    make_float4(pieces.sum[m][0][e], pieces.sum[m][1][e], pieces.sum[m][2][e],
                                pieces.sum[m][3][e]);
        }
}

// m[k] = v[k] u[k], tiles × C by C × F.
extern "C" __global__ void __launch_bounds__(64, 6)
    conv2d_winograd_tensor_multiply(const float* v, const float* u, float* m, int rows, int channels,
                                    int filters) {
    __shared__ __align__(16) float left[STAGES][TILE_ROWS][STAGE_DEPTH];
    __shared__ Right right[STAGES];
    v += blockIdx.z * rows * channels;
    u += blockIdx.z * channels * filters;
    // This thread fetches four numbers of each of four rows of both factors.
    int row = threadIdx.x / 4, part = threadIdx.x % 4 * 4;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            copy_16_bytes(
                left[stage][row + 16 * e][part], v,
                offset_in_matrix(blockIdx.x * TILE_ROWS + row + 16 * e, rows, k + part, channels));
            copy_16_bytes(right[stage].at(depth + 4 * e, column), u,
                          offset_in_matrix(k + depth + 4 * e, channels, blockIdx.y * TILE_COLUMNS + column,
                                           filters));
        }
    };
    auto row_of = [](int m, int half) { return 16 * m + 8 * half + threadIdx.x % 32 / 4; };
    Pieces pieces = {};
    run_stages(0, channels, fetch, [&](int stage) {
        auto read_left = [&](int m, float (&rows)[2][OWN]) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float4 four = as_float4(left[stage][row_of(m, half)][threadIdx.x % 4 * OWN]);
                rows[half][0] = four.x, rows[half][1] = four.y, rows[half][2] = four.z, rows[half][3] = four.w;
            }
        };
        multiply_stage(read_left, right[stage], pieces);
    });
    write_pieces(m + blockIdx.z * rows * filters, rows, filters, pieces, row_of);
}

// parts[p][k] = v[k]ᵀ z[k] over the tiles of part p, C × tiles by tiles × F.
extern "C" __global__ void __launch_bounds__(64, 6)
    conv2d_winograd_tensor_multiply_transposed(const float* v, const float* z, float* parts, int rows,
                                               int channels, int filters, int rows_per_part) {
    __shared__ DepthFirst<TILE_ROWS, 8> left[STAGES];
    __shared__ Right right[STAGES];
    int frequency = blockIdx.z % FREQUENCIES, first = blockIdx.z / FREQUENCIES * rows_per_part;
    v += frequency * rows * channels;
    z += frequency * rows * filters;
    // This thread fetches four numbers of each of four rows of both factors.
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = k + depth + 4 * e;
            copy_16_bytes(left[stage].at(depth + 4 * e, column), v,
                          offset_in_matrix(row, rows, blockIdx.x * TILE_ROWS + column, channels));
            copy_16_bytes(right[stage].at(depth + 4 * e, column), z,
                          offset_in_matrix(row, rows, blockIdx.y * TILE_COLUMNS + column, filters));
        }
    };
    // The two rows of a lane are neighbours, so that it can read both at once.
    auto row_of = [](int m, int half) { return 16 * m + threadIdx.x % 32 / 4 * 2 + half; };
    Pieces pieces = {};
    run_stages(first, min(rows, first + rows_per_part), fetch, [&](int stage) {
        auto read_left = [&](int m, float (&rows)[2][OWN]) {
#pragma unroll
            for (int k = 0; k < OWN; k++) {
                const float& first = left[stage].at(threadIdx.x % 4 * OWN + k, row_of(m, 0));
                float2 two = reinterpret_cast<const float2&>(first);
                rows[0][k] = two.x, rows[1][k] = two.y;
            }
        };
        multiply_stage(read_left, right[stage], pieces);
    });
    write_pieces(parts + blockIdx.z * channels * filters, channels, filters, pieces, row_of);
}
