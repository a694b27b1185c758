// The rung "wgmma" of conv2d, forward and backward_weight; conv2d.cu has the ladder.
//
// It multiplies the copies in bfloat16 that tensor_copies multiplies (conv2d_tensor_copies.cu), but by
// warpgroups (warpgroups.cuh), so only on GPUs of compute capability 9.0. Neither threads nor registers see
// the factors: copies bring them to shared memory, and the tensor cores read them there, those of B once for
// all four warps. A block has two warpgroups, with 64 of its 128 rows each.
//
// What fetches the tiles stands here and in conv2d_tensor_copies.cu: from a function of both, loops of the
// weight gradient had 12 to 38 instructions more, on sm_80 and sm_90, and that of forward here one.
//
// Launch: (rows / 128, F / 128) blocks of 256. C and F must be multiples of 8.

#include "conv2d_patches.cuh"
#include "warpgroups.cuh"

constexpr int TILE_ROWS = 128, TILE_COLUMNS = 128, STAGES = 3, STAGE_DEPTH = 32;

#include "conv2d_chunks.cuh"
#include "conv2d_tensor.cuh"

constexpr int PATTERN = 1024;  // bytes after which chunks exchange places in the same way: a tile begins there

// A tile whose rows are those of the depth: panels of 64 columns, so that a row has 128 bytes.
struct Panels {
    static constexpr int COLUMNS = 64;
    Tile<STAGE_DEPTH, COLUMNS> panels[TILE_COLUMNS / COLUMNS];

    __device__ __forceinline__ unsigned short& chunk(int depth, int column) {
        return panels[column / COLUMNS].chunk(depth, column % COLUMNS);
    }
    // All of it, or what begins with a panel.
    __device__ __forceinline__ unsigned long long descriptor(int panel) {
        return descriptor_of<128>(panels[panel].numbers[0][0], sizeof panels[0], 8 * 128);
    }
};
// A tile whose columns are those of the depth: rows of 64 bytes.
struct Rows : Tile<TILE_ROWS, STAGE_DEPTH> {
    __device__ __forceinline__ unsigned long long descriptor(int row) {
        return descriptor_of<64>(numbers[row][0], 16, 8 * 64);
    }
};

using BlockSums = Sums<TILE_COLUMNS>;

// fetch(stage, depth) begins to copy the tiles at this depth, each time STAGE_DEPTH further; left(stage) and
// right(stage) are descriptors of what this warpgroup multiplies. LEFT_STEP is what lies between 16 depths of
// the left tile, in bytes.
template <bool LEFT_TRANSPOSED, int LEFT_STEP, class Fetch, class Left, class Right>
__device__ __forceinline__ void run_stages_of_products(int first, int last, Fetch fetch, Left left,
                                                       Right right, BlockSums& sums) {
    constexpr int RIGHT_STEP = 16 * 128;
    int fetched = 0, used = 0;
    for (; fetched < STAGES - 1; fetched++) {
        fetch(fetched, first + fetched * STAGE_DEPTH);
        end_group_of_copies();
    }
    for (int depth = first; depth < last; depth += STAGE_DEPTH) {
        wait_for_copies<STAGES - 2>();
        fence_proxy();
        __syncthreads();  // these tiles are complete, and those before them may be replaced
        fence_registers(sums);
#pragma unroll
        for (int i = 0; i < STAGE_DEPTH / 16; i++)
            begin_product<LEFT_TRANSPOSED, true>(sums, advanced(left(used), i * LEFT_STEP),
                                                 advanced(right(used), i * RIGHT_STEP));
        end_group_of_products();
        fetch(fetched, depth + (STAGES - 1) * STAGE_DEPTH);
        end_group_of_copies();
        fetched = fetched == STAGES - 1 ? 0 : fetched + 1;
        used = used == STAGES - 1 ? 0 : used + 1;
        wait_for_products<0>(sums);
    }
    wait_for_copies<0>();
}

// finish(value, column) is applied to each value before it is written.
template <class Finish>
__device__ __forceinline__ void write_sums(float* result, int rows, int columns, const BlockSums& sums,
                                           Finish finish) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int e = 0; e < TILE_COLUMNS / 2; e += 2) {
        int row = blockIdx.x * TILE_ROWS + threadIdx.x / 32 * 16 + g + e / 2 % 2 * 8;
        int column = blockIdx.y * TILE_COLUMNS + e / 4 * 8 + 2 * t;
        if (row < rows && column < columns)
            *reinterpret_cast<float2*>(result + row * columns + column) =
                make_float2(finish(sums.of[e], column), finish(sums.of[e + 1], column + 1));
    }
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_forward_wgmma(const unsigned short* x, const unsigned short* weight, const float* bias, float* y,
                         int height, int width, int channels, int size, int padding, int filters, int relu,
                         int rows) {
    __shared__ __align__(PATTERN) Rows left[STAGES];
    __shared__ __align__(PATTERN) Panels right[STAGES];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // This thread fetches eight channels of each of two windows, and eight filters of each of two rows of
    // weight.
    int row = threadIdx.x / 4, part = threadIdx.x % 4 * 8;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 8;
    Tap tap = tap_of(s, part);
    Window windows[2];
#pragma unroll
    for (int e = 0; e < 2; e++) windows[e] = window_of(s, blockIdx.x * TILE_ROWS + row + 64 * e);
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_16_bytes(left[stage].chunk(row + 64 * e, part), x, offset_in_x(s, windows[e], tap));
        advance(tap, s, STAGE_DEPTH);
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_16_bytes(right[stage].chunk(depth + 16 * e, column), weight,
                          offset_in_matrix(k + depth + 16 * e, s.columns, blockIdx.y * TILE_COLUMNS + column,
                                           s.filters));
    };
    BlockSums sums = {};
    int warpgroup = threadIdx.x / WARPGROUP;
    run_stages_of_products<false, 16 * 2>(
        0, s.columns, fetch, [&](int stage) { return left[stage].descriptor(64 * warpgroup); },
        [&](int stage) { return right[stage].descriptor(0); }, sums);
    write_sums(y, s.rows, s.filters, sums, [&](float value, int f) {
        value += bias[f];
        return relu && value < 0 ? 0 : value;
    });
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv2d_backward_weight_wgmma(const unsigned short* x, const unsigned short* grad_output, float* parts,
                                 int height, int width, int channels, int size, int padding, int filters,
                                 int rows, int rows_per_part) {
    __shared__ __align__(PATTERN) Panels left[STAGES];
    __shared__ __align__(PATTERN) Panels right[STAGES];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // This thread fetches eight channels and eight filters of each of two pixels.
    int pixel = threadIdx.x / 16, column = threadIdx.x % 16 * 8;
    int first = blockIdx.z * rows_per_part, last = min(s.rows, first + rows_per_part);
    Tap tap = tap_of(s, blockIdx.x * TILE_ROWS + column);
    Window windows[2];
#pragma unroll
    for (int e = 0; e < 2; e++) windows[e] = window_of(s, first + pixel + 16 * e);
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int row = k + pixel + 16 * e;
            if (row >= s.rows) windows[e].i = s.height;
            copy_16_bytes(left[stage].chunk(pixel + 16 * e, column), x, offset_in_x(s, windows[e], tap));
            advance(windows[e], s, STAGE_DEPTH);
            copy_16_bytes(right[stage].chunk(pixel + 16 * e, column), grad_output,
                          offset_in_matrix(row, s.rows, blockIdx.y * TILE_COLUMNS + column, s.filters));
        }
    };
    BlockSums sums = {};
    int warpgroup = threadIdx.x / WARPGROUP;
    run_stages_of_products<true, 16 * 128>(
        first, last, fetch, [&](int stage) { return left[stage].descriptor(warpgroup); },
        [&](int stage) { return right[stage].descriptor(0); }, sums);
    write_sums(parts + blockIdx.z * s.columns * s.filters, s.columns, s.filters, sums,
               [](float value, int) { return value; });
}
