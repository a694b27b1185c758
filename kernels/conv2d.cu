// Convolution with stride 1, from naive to fast.
//
//   y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] · x[n,i+p-padding,j+q-padding,c]  (0 outside x)
//
// Channels last, this is a product of matrices. y is pixels × F; weight, as it lies, is K²C × F; the matrix
// between them, patches, has the window of x at pixel n,i,j as its row. It is never in memory ("implicit"):
//
//   y = patches · weight      grad_weight = patchesᵀ · grad_output      grad_x = forward, with weight turned
//
// Rungs of forward (and so of the gradient of x) and of backward_weight:
//
//   naive    a thread an element of the result; every factor is read from memory anew
//   tiled    16×16 elements a block; 16 columns of one factor and 16 rows of the other wait in shared memory,
//            and each number of them is used 16 times
//   blocked  128×64 elements a block, 8×8 of them in the registers of a thread: a number read from shared
//            memory is used 8 times. 128-bit loads; the next tiles are fetched while these are multiplied.
//            C and F must be multiples of 4
//   tensor   the same blocks on tensor cores: a warp multiplies 16×8 by 8×8 in one instruction. Factors are
//            rounded to TF32 (10 bits behind the point), sums are float32. Three tiles in shared memory, two
//            of them on their way there past the registers (cp.async). C and F must be multiples of 4
//   tensor_bf16   the same with 16×16 by 16×8, and factors rounded to bfloat16 (7 bits behind the point) as
//            they enter the tensor cores: arrays and sums stay float32
//
// The other kernels: turn_weight (for grad_x), sum_parts (of a weight gradient, in order), backward_bias and
// its end.
//
// Launch: naive and the others a thread an element, blocks of 256; tiled (rows / 16, F / 16) blocks of 16×16;
// blocked (rows / 128, F / 64) blocks of 128; backward_bias (F / 32, shares) blocks of 32×8. Weight gradients
// have K²C rows, and their third axis of blocks goes over parts of the pixels, each with a sum of its own.

extern "C" __global__ void conv2d_forward_naive(const float* x, const float* weight, const float* bias,
                                                float* y, int height, int width, int channels, int size,
                                                int padding, int filters, int relu, int rows) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= rows * filters) return;
    int out_height = height + 2 * padding - size + 1, out_width = width + 2 * padding - size + 1;
    int f = index % filters, row = index / filters, n = row / out_width / out_height;
    int i = row / out_width % out_height - padding, j = row % out_width - padding;
    float sum = bias[f];
    for (int p = 0; p < size; p++)
        for (int q = 0; q < size; q++) {
            if (i + p < 0 || i + p >= height || j + q < 0 || j + q >= width) continue;
            const float* pixel = x + ((n * height + i + p) * width + j + q) * channels;
            const float* w = weight + (p * size + q) * channels * filters + f;
            for (int c = 0; c < channels; c++) sum += w[c * filters] * pixel[c];
        }
    y[index] = relu && sum < 0 ? 0 : sum;
}

// The pixels are cut into parts, each summed by other threads: more to do at once, and shorter sums round
// less.
extern "C" __global__ void conv2d_backward_weight_naive(const float* x, const float* grad_output,
                                                        float* parts, int height, int width, int channels,
                                                        int size, int padding, int filters, int rows,
                                                        int rows_a_part) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    int count = size * size * channels * filters;
    if (index >= count) return;
    int out_height = height + 2 * padding - size + 1, out_width = width + 2 * padding - size + 1;
    int f = index % filters, c = index / filters % channels, tap = index / filters / channels;
    int first = blockIdx.z * rows_a_part, last = min(rows, first + rows_a_part);
    float sum = 0;
    for (int row = first; row < last; row++) {
        int n = row / out_width / out_height;
        int i = row / out_width % out_height - padding + tap / size;
        int j = row % out_width - padding + tap % size;
        if (i < 0 || i >= height || j < 0 || j >= width) continue;
        sum += x[((n * height + i) * width + j) * channels + c] * grad_output[row * filters + f];
    }
    parts[blockIdx.z * count + index] = sum;
}

// What the rungs above naive know of the matrices: patches is rows × columns, pixels × K²C.
struct Shape {
    int height, width, channels, size, padding, filters, rows;
    int out_height, out_width, columns;
};

__device__ __forceinline__ Shape shape_of(int height, int width, int channels, int size, int padding,
                                          int filters, int rows) {
    int out_height = height + 2 * padding - size + 1, out_width = width + 2 * padding - size + 1;
    int columns = size * size * channels;
    return {height, width, channels, size, padding, filters, rows, out_height, out_width, columns};
}

// A row of patches: the window of one output pixel. i, j: where it begins in x, perhaps in the padding.
struct Window {
    int n, i, j;
    bool exists;
};

__device__ __forceinline__ Window window_of(const Shape& s, int row) {
    int pixel = row % (s.out_height * s.out_width);
    return {row / (s.out_height * s.out_width), pixel / s.out_width - s.padding,
            pixel % s.out_width - s.padding, row < s.rows};
}

// Where the number of patches in this row and column is in x. Negative: nowhere, it is 0.
__device__ __forceinline__ int offset_in_x(const Shape& s, const Window& window, int column) {
    int tap = column / s.channels, c = column % s.channels;
    int i = window.i + tap / s.size, j = window.j + tap % s.size;
    bool inside = window.exists && column < s.columns && 0 <= i && i < s.height && 0 <= j && j < s.width;
    return inside ? ((window.n * s.height + i) * s.width + j) * s.channels + c : -1;
}

constexpr int TILE = 16;

extern "C" __global__ void conv2d_forward_tiled(const float* x, const float* weight, const float* bias,
                                                float* y, int height, int width, int channels, int size,
                                                int padding, int filters, int relu, int rows) {
    __shared__ float patches[TILE][TILE], weights[TILE][TILE];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    int row = blockIdx.x * TILE + threadIdx.y, f = blockIdx.y * TILE + threadIdx.x;
    Window window = window_of(s, row);
    float sum = 0;
    for (int k = 0; k < s.columns; k += TILE) {
        int from = offset_in_x(s, window, k + threadIdx.x), w = k + threadIdx.y;
        patches[threadIdx.y][threadIdx.x] = from >= 0 ? x[from] : 0;
        weights[threadIdx.y][threadIdx.x] = w < s.columns && f < filters ? weight[w * filters + f] : 0;
        __syncthreads();  // both tiles are complete
        for (int e = 0; e < TILE; e++) sum += patches[threadIdx.y][e] * weights[e][threadIdx.x];
        __syncthreads();  // no one needs them any more
    }
    if (row >= rows || f >= filters) return;
    sum += bias[f];
    y[row * filters + f] = relu && sum < 0 ? 0 : sum;
}

extern "C" __global__ void conv2d_backward_weight_tiled(const float* x, const float* grad_output,
                                                        float* parts, int height, int width, int channels,
                                                        int size, int padding, int filters, int rows,
                                                        int rows_a_part) {
    __shared__ float patches[TILE][TILE], grads[TILE][TILE];
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    int column = blockIdx.x * TILE + threadIdx.y, f = blockIdx.y * TILE + threadIdx.x;
    int first = blockIdx.z * rows_a_part, last = min(rows, first + rows_a_part);
    float sum = 0;
    for (int r = first; r < last; r += TILE) {
        int row = r + threadIdx.y;  // parts begin at multiples of TILE: none reaches into the next
        int from = offset_in_x(s, window_of(s, row), blockIdx.x * TILE + threadIdx.x);
        patches[threadIdx.y][threadIdx.x] = from >= 0 ? x[from] : 0;
        grads[threadIdx.y][threadIdx.x] = row < rows && f < filters ? grad_output[row * filters + f] : 0;
        __syncthreads();
        for (int e = 0; e < TILE; e++) sum += patches[e][threadIdx.y] * grads[e][threadIdx.x];
        __syncthreads();
    }
    if (column < s.columns && f < filters) parts[(blockIdx.z * s.columns + column) * filters + f] = sum;
}

// blocked: a block of 128 threads multiplies a 128 × DEPTH tile by a DEPTH × 64 tile, again and again.
constexpr int TILE_ROWS = 128, TILE_COLUMNS = 64, DEPTH = 8;

struct __align__(16) Tiles {
    // Two of each: one is read while the other is written. Both have the depth as their first axis, so that a
    // thread reads its rows and its columns four at a time. The four more make each depth begin at another
    // bank.
    float left[2][DEPTH][TILE_ROWS + 4];
    float right[2][DEPTH][TILE_COLUMNS];
};

__device__ __forceinline__ float4& four(const float& first) {
    return *reinterpret_cast<float4*>(const_cast<float*>(&first));
}

// Four numbers of a row × columns matrix; 0 outside of it.
__device__ __forceinline__ float4 four_of(const float* matrix, int row, int rows, int column, int columns) {
    return row < rows && column < columns ? four(matrix[row * columns + column]) : make_float4(0, 0, 0, 0);
}

__device__ __forceinline__ float4 four_of_patches(const float* x, const Shape& s, const Window& window,
                                                  int column) {
    int from = offset_in_x(s, window, column);
    return from >= 0 ? four(x[from]) : make_float4(0, 0, 0, 0);
}

// A thread's 8×8: rows r..r+3 and 64+r..64+r+3, columns c..c+3 and 32+c..32+c+3, with
__device__ __forceinline__ int first_row() { return threadIdx.x / 8 * 4; }
__device__ __forceinline__ int first_column() { return threadIdx.x % 8 * 4; }

__device__ __forceinline__ void multiply_tiles(const Tiles& tiles, int buffer, float (&sum)[8][8]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
        __align__(16) float left[8], right[8];
        four(left[0]) = four(tiles.left[buffer][k][first_row()]);
        four(left[4]) = four(tiles.left[buffer][k][TILE_ROWS / 2 + first_row()]);
        four(right[0]) = four(tiles.right[buffer][k][first_column()]);
        four(right[4]) = four(tiles.right[buffer][k][TILE_COLUMNS / 2 + first_column()]);
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
            for (int c = 0; c < 8; c++) sum[r][c] += left[r] * right[c];
    }
}

// fetch(step) reads the tiles that begin at this depth into registers, put(buffer) writes them to shared
// memory.
template <class Fetch, class Put>
__device__ __forceinline__ void multiply(const Tiles& tiles, int first, int last, Fetch fetch, Put put,
                                         float (&sum)[8][8]) {
    fetch(first);
    put(0);
    __syncthreads();
    int buffer = 0;
    for (int step = first; step < last; step += DEPTH) {
        bool more = step + DEPTH < last;
        if (more) fetch(step + DEPTH);
        multiply_tiles(tiles, buffer, sum);
        if (more) put(buffer ^ 1);
        __syncthreads();  // the new tiles are complete, and no one needs the old ones
        buffer ^= 1;
    }
}

// finish(number, column) before each is written.
template <class Finish>
__device__ __forceinline__ void write_result(float* result, int rows, int columns, const float (&sum)[8][8],
                                             Finish finish) {
#pragma unroll
    for (int r = 0; r < 8; r++) {
        int row = blockIdx.x * TILE_ROWS + first_row() + r % 4 + r / 4 * TILE_ROWS / 2;
#pragma unroll
        for (int c = 0; c < 8; c += 4) {
            int column = blockIdx.y * TILE_COLUMNS + first_column() + c / 4 * TILE_COLUMNS / 2;
            if (row < rows && column < columns)
                four(result[row * columns + column]) =
                    make_float4(finish(sum[r][c], column), finish(sum[r][c + 1], column + 1),
                                finish(sum[r][c + 2], column + 2), finish(sum[r][c + 3], column + 3));
        }
    }
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_blocked(const float* x, const float* weight, const float* bias, float* y, int height,
                           int width, int channels, int size, int padding, int filters, int relu, int rows) {
    __shared__ Tiles tiles;
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // What this thread fetches: four channels each of two windows, four filters.
    int row = threadIdx.x / 2, part = threadIdx.x % 2 * 4;
    Window upper = window_of(s, blockIdx.x * TILE_ROWS + row);
    Window lower = window_of(s, blockIdx.x * TILE_ROWS + TILE_ROWS / 2 + row);
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    float4 a, b, w;
    auto fetch = [&](int k) {
        a = four_of_patches(x, s, upper, k + part);
        b = four_of_patches(x, s, lower, k + part);
        w = four_of(weight, k + depth, s.columns, blockIdx.y * TILE_COLUMNS + column, filters);
    };
    auto put = [&](int buffer) {
        float upper_four[4] = {a.x, a.y, a.z, a.w}, lower_four[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            tiles.left[buffer][part + e][row] = upper_four[e];
            tiles.left[buffer][part + e][TILE_ROWS / 2 + row] = lower_four[e];
        }
        four(tiles.right[buffer][depth][column]) = w;
    };
    float sum[8][8] = {};
    multiply(tiles, 0, s.columns, fetch, put, sum);
    write_result(y, rows, filters, sum, [&](float value, int f) {
        value += bias[f];
        return relu && value < 0 ? 0 : value;
    });
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_blocked(const float* x, const float* grad_output, float* parts, int height,
                                   int width, int channels, int size, int padding, int filters, int rows,
                                   int rows_a_part) {
    __shared__ Tiles tiles;
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    // What this thread fetches: four channels of two pixels, four filters of one.
    int pixel = threadIdx.x / 32, channel = threadIdx.x % 32 * 4;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    float4 a, b, g;
    auto fetch = [&](int k) {
        a = four_of_patches(x, s, window_of(s, k + pixel), blockIdx.x * TILE_ROWS + channel);
        b = four_of_patches(x, s, window_of(s, k + 4 + pixel), blockIdx.x * TILE_ROWS + channel);
        g = four_of(grad_output, k + depth, rows, blockIdx.y * TILE_COLUMNS + column, filters);
    };
    auto put = [&](int buffer) {
        four(tiles.left[buffer][pixel][channel]) = a;
        four(tiles.left[buffer][4 + pixel][channel]) = b;
        four(tiles.right[buffer][depth][column]) = g;
    };
    float sum[8][8] = {};
    int first = blockIdx.z * rows_a_part;
    multiply(tiles, first, min(rows, first + rows_a_part), fetch, put, sum);
    write_result(parts + blockIdx.z * s.columns * filters, s.columns, filters, sum,
                 [](float value, int) { return value; });
}

// tensor: each PTX instruction in a function of its own, with a second body for the CPU.
__device__ __forceinline__ unsigned to_tf32(float value) {
#ifdef CUDA_EMULATED
    return emulator::round_to_tf32(value);
#else
    unsigned rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
    return rounded;
#endif
}

// Two numbers in one register, the first in its lower half.
__device__ __forceinline__ unsigned to_bf16(float first, float second) {
#ifdef CUDA_EMULATED
    return emulator::round_to_bf16(first) | emulator::round_to_bf16(second) << 16;
#else
    unsigned rounded;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(rounded) : "f"(second), "f"(first));
    return rounded;
#endif
}

__device__ __forceinline__ void multiply_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUDA_EMULATED
    emulator::mma_m16n8k8_tf32(d, a, b, __LINE__);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ void multiply_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUDA_EMULATED
    emulator::mma_m16n8k16_bf16(d, a, b, __LINE__);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// What is multiplied: DEPTH numbers at once, of which a lane, the t-th of four, holds some in each of two
// registers. number(k) is the k-th of them.
struct Tf32 {
    static constexpr int DEPTH = 8;
    template <class Number>
    __device__ __forceinline__ static unsigned held(Number number, int t, int which) {
        return to_tf32(number(t + 4 * which));
    }
    __device__ __forceinline__ static void multiply(float (&d)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2]) {
        multiply_tf32(d, a, b);
    }
};

struct Bf16 {
    static constexpr int DEPTH = 16;
    template <class Number>
    __device__ __forceinline__ static unsigned held(Number number, int t, int which) {
        return to_bf16(number(2 * t + 8 * which), number(2 * t + 8 * which + 1));
    }
    __device__ __forceinline__ static void multiply(float (&d)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2]) {
        multiply_bf16(d, a, b);
    }
};

// Four numbers on their way to shared memory; zeros where `offset` is negative.
__device__ __forceinline__ void copy_four(float& to, const float* from, int offset) {
#ifdef CUDA_EMULATED
    emulator::copy_async(&to, offset >= 0 ? from + offset : nullptr);
#else
    unsigned address = __cvta_generic_to_shared(&to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from + max(offset, 0)),
                 "r"(offset >= 0 ? 16 : 0)
                 : "memory");
#endif
}

__device__ __forceinline__ void end_group_of_copies() {
#ifdef CUDA_EMULATED
    emulator::end_group_of_copies();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All but the last GROUPS groups have arrived, as far as this thread asked for them.
template <int GROUPS>
__device__ __forceinline__ void wait_for_copies() {
#ifdef CUDA_EMULATED
    emulator::wait_for_copies(GROUPS);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#endif
}

constexpr int STAGES = 3, STAGE_DEPTH = 16;

// Of the block's 128×64, each of the four warps has 64×32: 4×4 pieces of 16×8, four numbers of each a lane.
struct Pieces {
    float sum[4][4][4];
};
__device__ __forceinline__ int warp_row() { return threadIdx.x / 64 * 64; }
__device__ __forceinline__ int warp_column() { return threadIdx.x / 32 % 2 * 32; }

// left(row, k) is a number of the left tile. The rows of both tiles are longer than needed: with the lengths
// chosen, the 32 lanes read from 32 banks.
template <class Factors, class Left>
__device__ __forceinline__ void multiply_stage(Left left, const float (&right)[STAGE_DEPTH][TILE_COLUMNS + 8],
                                               Pieces& pieces) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int first = 0; first < STAGE_DEPTH; first += Factors::DEPTH) {
        unsigned a[4][4], b[4][2];
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = warp_row() + 16 * m + g + e % 2 * 8;
                a[m][e] = Factors::held([&](int k) { return left(row, first + k); }, t, e / 2);
            }
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = warp_column() + 8 * n + g;
                b[n][e] = Factors::held([&](int k) { return right[first + k][column]; }, t, e);
            }
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int n = 0; n < 4; n++) Factors::multiply(pieces.sum[m][n], a[m], b[n]);
    }
}

// fetch(stage, step) asks for the tiles that begin at this depth; use(stage) multiplies them.
template <class Fetch, class Use>
__device__ __forceinline__ void run_stages(int first, int last, Fetch fetch, Use use) {
    for (int stage = 0; stage < STAGES - 1; stage++) {
        fetch(stage, first + stage * STAGE_DEPTH);
        end_group_of_copies();
    }
    int stage = 0;
    for (int step = first; step < last; step += STAGE_DEPTH) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();  // these tiles are complete, and no one needs those before them: they are replaced
        fetch((stage + STAGES - 1) % STAGES, step + (STAGES - 1) * STAGE_DEPTH);
        end_group_of_copies();
        use(stage);
        stage = (stage + 1) % STAGES;
    }
    wait_for_copies<0>();
}

// As write_result; a lane has two numbers next to one another in each of two rows of a piece.
template <class Finish>
__device__ __forceinline__ void write_pieces(float* result, int rows, int columns, const Pieces& pieces,
                                             Finish finish) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = blockIdx.x * TILE_ROWS + warp_row() + 16 * m + g + e / 2 * 8;
                int column = blockIdx.y * TILE_COLUMNS + warp_column() + 8 * n + 2 * t + e % 2;
                if (row < rows && column < columns)
                    result[row * columns + column] = finish(pieces.sum[m][n][e], column);
            }
}

// Where a number of a row × columns matrix is; negative outside of it.
__device__ __forceinline__ int offset_in_matrix(int row, int rows, int column, int columns) {
    return row < rows && column < columns ? row * columns + column : -1;
}

template <class Factors>
__device__ __forceinline__ void forward_on_tensor_cores(const Shape& s, const float* x, const float* weight,
                                                        const float* bias, float* y, int relu) {
    __shared__ __align__(16) float left[STAGES][TILE_ROWS][STAGE_DEPTH + 4];
    __shared__ __align__(16) float right[STAGES][STAGE_DEPTH][TILE_COLUMNS + 8];
    // What this thread fetches: four channels each of four windows, four filters each of two rows of weight.
    int row = threadIdx.x / 4, part = threadIdx.x % 4 * 4;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    Window windows[4];
#pragma unroll
    for (int e = 0; e < 4; e++) windows[e] = window_of(s, blockIdx.x * TILE_ROWS + row + 32 * e);
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            copy_four(left[stage][row + 32 * e][part], x, offset_in_x(s, windows[e], k + part));
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_four(
                right[stage][depth + 8 * e][column], weight,
                offset_in_matrix(k + depth + 8 * e, s.columns, blockIdx.y * TILE_COLUMNS + column, s.filters));
    };
    Pieces pieces = {};
    run_stages(0, s.columns, fetch, [&](int stage) {
        multiply_stage<Factors>([&](int r, int k) { return left[stage][r][k]; }, right[stage], pieces);
    });
    write_pieces(y, s.rows, s.filters, pieces, [&](float value, int f) {
        value += bias[f];
        return relu && value < 0 ? 0 : value;
    });
}

template <class Factors>
__device__ __forceinline__ void backward_weight_on_tensor_cores(const Shape& s, const float* x,
                                                                const float* grad_output, float* parts,
                                                                int rows_a_part) {
    __shared__ __align__(16) float left[STAGES][STAGE_DEPTH][TILE_ROWS + 8];
    __shared__ __align__(16) float right[STAGES][STAGE_DEPTH][TILE_COLUMNS + 8];
    // What this thread fetches: four channels each of four pixels, four filters each of two.
    int pixel = threadIdx.x / 32, channel = threadIdx.x % 32 * 4;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    int first = blockIdx.z * rows_a_part, last = min(s.rows, first + rows_a_part);
    auto fetch = [&](int stage, int k) {
#pragma unroll
        for (int e = 0; e < 4; e++)
            copy_four(left[stage][pixel + 4 * e][channel], x,
                      offset_in_x(s, window_of(s, k + pixel + 4 * e), blockIdx.x * TILE_ROWS + channel));
#pragma unroll
        for (int e = 0; e < 2; e++)
            copy_four(right[stage][depth + 8 * e][column], grad_output,
                      offset_in_matrix(k + depth + 8 * e, s.rows, blockIdx.y * TILE_COLUMNS + column, s.filters));
    };
    Pieces pieces = {};
    run_stages(first, last, fetch, [&](int stage) {
        multiply_stage<Factors>([&](int r, int k) { return left[stage][k][r]; }, right[stage], pieces);
    });
    write_pieces(parts + blockIdx.z * s.columns * s.filters, s.columns, s.filters, pieces,
                 [](float value, int) { return value; });
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_tensor(const float* x, const float* weight, const float* bias, float* y, int height,
                          int width, int channels, int size, int padding, int filters, int relu, int rows) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    forward_on_tensor_cores<Tf32>(s, x, weight, bias, y, relu);
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_tensor(const float* x, const float* grad_output, float* parts, int height,
                                  int width, int channels, int size, int padding, int filters, int rows,
                                  int rows_a_part) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    backward_weight_on_tensor_cores<Tf32>(s, x, grad_output, parts, rows_a_part);
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_forward_tensor_bf16(const float* x, const float* weight, const float* bias, float* y, int height,
                          int width, int channels, int size, int padding, int filters, int relu, int rows) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    forward_on_tensor_cores<Bf16>(s, x, weight, bias, y, relu);
}

extern "C" __global__ void __launch_bounds__(128)
    conv2d_backward_weight_tensor_bf16(const float* x, const float* grad_output, float* parts, int height,
                                  int width, int channels, int size, int padding, int filters, int rows,
                                  int rows_a_part) {
    Shape s = shape_of(height, width, channels, size, padding, filters, rows);
    backward_weight_on_tensor_cores<Bf16>(s, x, grad_output, parts, rows_a_part);
}

// grad_x is a convolution of grad_output with the window turned by 180 degrees and its channels exchanged.
extern "C" __global__ void conv2d_turn_weight(const float* weight, float* turned, int channels, int filters,
                                              int taps, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int c = index % channels, f = index / channels % filters, tap = index / channels / filters;
    turned[index] = weight[((taps - 1 - tap) * channels + c) * filters + f];
}

extern "C" __global__ void conv2d_sum_parts(const float* parts, float* sum, int number, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float total = 0;
    for (int part = 0; part < number; part++) total += parts[part * count + index];
    sum[index] = total;
}

// Column sums of a rows × F matrix. A block of 32×8 threads takes 32 columns and a share of the rows; a
// second launch, with one share, adds the sums of the first. In double precision: there may be millions of
// rows.
template <class Number, class Sum>
__device__ void sum_columns(const Number* matrix, Sum* sums, int rows, int filters) {
    __shared__ double of_thread[8][32];
    int f = blockIdx.x * 32 + threadIdx.x;
    double sum = 0;
    if (f < filters)
        for (int row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8)
            sum += matrix[row * filters + f];
    of_thread[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || f >= filters) return;
    for (int y = 1; y < 8; y++) sum += of_thread[y][threadIdx.x];
    sums[blockIdx.y * filters + f] = sum;
}

extern "C" __global__ void conv2d_backward_bias(const float* grad_output, double* parts, int rows,
                                                int filters) {
    sum_columns(grad_output, parts, rows, filters);
}

extern "C" __global__ void conv2d_backward_bias_end(const double* parts, float* grad_bias, int number,
                                                    int filters) {
    sum_columns(parts, grad_bias, number, filters);
}
