// The rung "winograd" of conv2d, for windows of 3×3: Winograd's F(4×4, 3×3), with a quarter of the
// multiplications. tinyunet/ops/conv2d_winograd.py derives it, conv2d_winograd_transforms.py the transforms.
//
// The output is cut into tiles of 4×4 pixels, each of which depends on 6×6 pixels of x. There are 36 products
// of matrices, one for each element k of a transformed tile:
//
//   forward           y = Aᵀ [ v[k] u[k] ] A + bias         v = Bᵀ d B (tiles × C), u = G g Gᵀ (C × F)
//   backward_weight   grad_g = Gᵀ [ v[k]ᵀ z[k] ] G          z = A grad_y Aᵀ (tiles × F)
//
//   forward           inputs, weights, multiply, outputs
//   backward_weight   inputs, output_grads, multiply_transposed, weight_grad
//
// Launch: the transforms one thread per tile (or window) and channel, blocks of 256; the products blocks of
// 128 threads for 128×64 results. The third axis of the grid goes over the 36 products, and in
// multiply_transposed also over parts of the tiles, each with its own sum.

#include "conv2d_patches.cuh"
#include "conv2d_tiles.cuh"

constexpr int OUT = 4, IN = 6, FREQUENCIES = IN * IN;  // sides of a tile of the output and of the input

// One axis. The points are 0, A, -A, B, -B, ∞; N0, NA and NB are the inverses of Lagrange's denominators.
constexpr float A = 0.75f, A2 = A * A, A3 = A2 * A, B = 1.5f, B2 = B * B, B3 = B2 * B;
constexpr float N0 = 1 / (A2 * B2), NA = 1 / (2 * A2 * (A2 - B2)), NB = 1 / (2 * B2 * (B2 - A2));

struct Input {  // Bᵀ d
    static constexpr int FROM = IN, TO = IN;
    __device__ __forceinline__ static void along_one_axis(const float (&d)[FROM], float (&v)[TO]) {
        float even_a = d[4] - B2 * d[2], odd_a = A * (d[3] - B2 * d[1]);
        float even_b = d[4] - A2 * d[2], odd_b = B * (d[3] - A2 * d[1]);
        v[0] = A2 * B2 * d[0] - (A2 + B2) * d[2] + d[4];
        v[1] = even_a + odd_a, v[2] = even_a - odd_a;
        v[3] = even_b + odd_b, v[4] = even_b - odd_b;
        v[5] = A2 * B2 * d[1] - (A2 + B2) * d[3] + d[5];
    }
};

struct Output {  // Aᵀ m
    static constexpr int FROM = IN, TO = OUT;
    __device__ __forceinline__ static void along_one_axis(const float (&m)[FROM], float (&y)[TO]) {
        float even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
        y[0] = m[0] + even_a + even_b;
        y[1] = A * odd_a + B * odd_b;
        y[2] = A2 * even_a + B2 * even_b;
        y[3] = A3 * odd_a + B3 * odd_b + m[5];
    }
};

struct OutputGrad {  // A y
    static constexpr int FROM = OUT, TO = IN;
    __device__ __forceinline__ static void along_one_axis(const float (&y)[FROM], float (&z)[TO]) {
        float even_a = y[0] + A2 * y[2], odd_a = A * y[1] + A3 * y[3];
        float even_b = y[0] + B2 * y[2], odd_b = B * y[1] + B3 * y[3];
        z[0] = y[0];
        z[1] = even_a + odd_a, z[2] = even_a - odd_a;
        z[3] = even_b + odd_b, z[4] = even_b - odd_b;
        z[5] = y[3];
    }
};

struct Weight {  // G g
    static constexpr int FROM = 3, TO = IN;
    __device__ __forceinline__ static void along_one_axis(const float (&g)[FROM], float (&u)[TO]) {
        float even_a = NA * (g[0] + A2 * g[2]), odd_a = NA * A * g[1];
        float even_b = NB * (g[0] + B2 * g[2]), odd_b = NB * B * g[1];
        u[0] = N0 * g[0];
        u[1] = even_a + odd_a, u[2] = even_a - odd_a;
        u[3] = even_b + odd_b, u[4] = even_b - odd_b;
        u[5] = g[2];
    }
};

struct WeightGrad {  // Gᵀ u
    static constexpr int FROM = IN, TO = 3;
    __device__ __forceinline__ static void along_one_axis(const float (&u)[FROM], float (&g)[TO]) {
        float even_a = NA * (u[1] + u[2]), odd_a = NA * A * (u[1] - u[2]);
        float even_b = NB * (u[3] + u[4]), odd_b = NB * B * (u[3] - u[4]);
        g[0] = N0 * u[0] + even_a + even_b;
        g[1] = odd_a + odd_b;
        g[2] = A2 * even_a + B2 * even_b + u[5];
    }
};

// Transform the columns, then the rows of the result.
template <class Transform>
__device__ __forceinline__ void transform(const float (&from)[Transform::FROM][Transform::FROM],
                                          float (&to)[Transform::TO][Transform::TO]) {
    float half[Transform::TO][Transform::FROM];
#pragma unroll
    for (int j = 0; j < Transform::FROM; j++) {
        float column[Transform::FROM], result[Transform::TO];
#pragma unroll
        for (int i = 0; i < Transform::FROM; i++) column[i] = from[i][j];
        Transform::along_one_axis(column, result);
#pragma unroll
        for (int i = 0; i < Transform::TO; i++) half[i][j] = result[i];
    }
#pragma unroll
    for (int i = 0; i < Transform::TO; i++) Transform::along_one_axis(half[i], to[i]);
}

// A tile in one channel, by its first pixel: what a thread transforms. index counts tiles and channels.
struct Tile {
    int n, i, j, channel, index;
};

__device__ __forceinline__ Tile tile_of_thread(int down, int across, int channels) {
    int index = blockIdx.x * blockDim.x + threadIdx.x, tile = index / channels;
    int n = tile / across / down, i = OUT * (tile / across % down), j = OUT * (tile % across);
    return {n, i, j, index % channels, index};
}

// Read a tile of maps (N, H, W, C) with its first pixel at i, j, and 0 outside the maps.
template <int SIDE>
__device__ __forceinline__ void read(float (&tile)[SIDE][SIDE], const float* maps, int n, int i, int j,
                                     int channel, int height, int width, int channels) {
#pragma unroll
    for (int r = 0; r < SIDE; r++)
#pragma unroll
        for (int c = 0; c < SIDE; c++) {
            bool inside = 0 <= i + r && i + r < height && 0 <= j + c && j + c < width;
            tile[r][c] = inside ? maps[((n * height + i + r) * width + j + c) * channels + channel] : 0;
        }
}

// Write the elements of a transformed tile `count` apart.
__device__ __forceinline__ void write(const float (&tile)[IN][IN], float* to, int index, int count) {
#pragma unroll
    for (int k = 0; k < FREQUENCIES; k++) to[k * count + index] = tile[k / IN][k % IN];
}

extern "C" __global__ void __launch_bounds__(256)
    conv2d_winograd_inputs(const float* x, float* v, int height, int width, int channels, int padding,
                           int down, int across, int count) {
    Tile t = tile_of_thread(down, across, channels);
    if (t.index >= count) return;
    float d[IN][IN], transformed[IN][IN];
    read(d, x, t.n, t.i - padding, t.j - padding, t.channel, height, width, channels);
    transform<Input>(d, transformed);
    write(transformed, v, t.index, count);
}

extern "C" __global__ void __launch_bounds__(256)
    conv2d_winograd_output_grads(const float* grad_y, float* z, int height, int width, int filters, int down,
                                 int across, int count) {
    Tile t = tile_of_thread(down, across, filters);
    if (t.index >= count) return;
    float y[OUT][OUT], transformed[IN][IN];
    read(y, grad_y, t.n, t.i, t.j, t.channel, height, width, filters);
    transform<OutputGrad>(y, transformed);
    write(transformed, z, t.index, count);
}

extern "C" __global__ void __launch_bounds__(256)
    conv2d_winograd_weights(const float* weight, float* u, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float g[3][3], transformed[IN][IN];
#pragma unroll
    for (int tap = 0; tap < 9; tap++) g[tap / 3][tap % 3] = weight[tap * count + index];
    transform<Weight>(g, transformed);
    write(transformed, u, index, count);
}

extern "C" __global__ void __launch_bounds__(256)
    conv2d_winograd_outputs(const float* m, const float* bias, float* y, int height, int width, int filters,
                            int relu, int down, int across, int count) {
    Tile t = tile_of_thread(down, across, filters);
    if (t.index >= count) return;
    float sums[IN][IN], result[OUT][OUT];
#pragma unroll
    for (int k = 0; k < FREQUENCIES; k++) sums[k / IN][k % IN] = m[k * count + t.index];
    transform<Output>(sums, result);
#pragma unroll
    for (int r = 0; r < OUT; r++)
#pragma unroll
        for (int c = 0; c < OUT; c++) {
            float value = result[r][c] + bias[t.channel];
            if (t.i + r < height && t.j + c < width)
                y[((t.n * height + t.i + r) * width + t.j + c) * filters + t.channel] =
                    relu && value < 0 ? 0 : value;
        }
}

// Add the products of all parts in order, and transform the sums into grad_weight.
extern "C" __global__ void __launch_bounds__(256)
    conv2d_winograd_weight_grad(const float* parts, float* grad_weight, int num_parts, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    float sums[IN][IN] = {}, g[3][3];
    for (int part = 0; part < num_parts; part++)
#pragma unroll
        for (int k = 0; k < FREQUENCIES; k++)
            sums[k / IN][k % IN] += parts[(part * FREQUENCIES + k) * count + index];
    transform<WeightGrad>(sums, g);
#pragma unroll
    for (int tap = 0; tap < 9; tap++) grad_weight[tap * count + index] = g[tap / 3][tap % 3];
}

// m[k] = v[k] u[k], tiles × C by C × F.
extern "C" __global__ void __launch_bounds__(128)
    conv2d_winograd_multiply(const float* v, const float* u, float* m, int rows, int channels, int filters) {
    __shared__ Tiles tiles;
    v += blockIdx.z * rows * channels;
    u += blockIdx.z * channels * filters;
    int row = threadIdx.x / 2, part = threadIdx.x % 2 * 4, upper = blockIdx.x * TILE_ROWS + row;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    float4 p, q, w;
    auto fetch = [&](int k) {
        p = load_float4(v, offset_in_matrix(upper, rows, k + part, channels));
        q = load_float4(v, offset_in_matrix(upper + TILE_ROWS / 2, rows, k + part, channels));
        w = load_float4(u,
                        offset_in_matrix(k + depth, channels, blockIdx.y * TILE_COLUMNS + column, filters));
    };
    auto store_tile = [&](int buffer) {
        float upper_values[4] = {p.x, p.y, p.z, p.w}, lower_values[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            tiles.left[buffer][part + e][row] = upper_values[e];
            tiles.left[buffer][part + e][TILE_ROWS / 2 + row] = lower_values[e];
        }
        as_float4(tiles.right[buffer][depth][column]) = w;
    };
    float sum[8][8] = {};
    multiply(tiles, 0, channels, fetch, store_tile, sum);
    write_result(m + blockIdx.z * rows * filters, rows, filters, sum, [](float value, int) { return value; });
}

// parts[p][k] = v[k]ᵀ z[k] over the tiles of part p, C × tiles by tiles × F.
extern "C" __global__ void __launch_bounds__(128)
    conv2d_winograd_multiply_transposed(const float* v, const float* z, float* parts, int rows, int channels,
                                        int filters, int rows_per_part) {
    __shared__ Tiles tiles;
    int frequency = blockIdx.z % FREQUENCIES, first = blockIdx.z / FREQUENCIES * rows_per_part;
    v += frequency * rows * channels;
    z += frequency * rows * filters;
    int depth = threadIdx.x / 16, column = threadIdx.x % 16 * 4;
    int near = blockIdx.x * TILE_ROWS + column, far = near + TILE_ROWS / 2;
    float4 p, q, g;
    auto fetch = [&](int k) {
        p = load_float4(v, offset_in_matrix(k + depth, rows, near, channels));
        q = load_float4(v, offset_in_matrix(k + depth, rows, far, channels));
        g = load_float4(z, offset_in_matrix(k + depth, rows, blockIdx.y * TILE_COLUMNS + column, filters));
    };
    auto store_tile = [&](int buffer) {
        as_float4(tiles.left[buffer][depth][column]) = p;
        as_float4(tiles.left[buffer][depth][TILE_ROWS / 2 + column]) = q;
        as_float4(tiles.right[buffer][depth][column]) = g;
    };
    float sum[8][8] = {};
    multiply(tiles, first, min(rows, first + rows_per_part), fetch, store_tile, sum);
    write_result(parts + blockIdx.z * channels * filters, channels, filters, sum,
                 [](float value, int) { return value; });
}
