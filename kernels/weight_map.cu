// The weight of each pixel of a tile in the loss: class balance, and the border between two cells.
// tinyunet/sampling/weight_map.py explains it. A tile of cells has a margin on each side, whose cells count
// but whose pixels get no weight.
//
//   columns   the two nearest different cells of each pixel's column, and their distances dy
//   rows      d1, d2: the distances to the nearest and the second nearest cell, from the columns' candidates
//   forward   weight = class_weights[class] + w0 · exp(-(d1 + d2)² / 2σ²); the second term in the background
//   sums      the sum of the weights in each column, per class
//   scale     the weights times a scalar
//
// Squared distances are integers, so the comparisons are exact. The search ends at limit. Of two cells at the
// same distance either may come first; the distances are the same.
//
// Launch: blocks of 256; columns, rows, forward and scale one thread per pixel inside the margin (columns:
// inside the margin above and below), sums one thread per column, with the classes along y of the grid. No
// two threads write to one element, and each sum is added from top to bottom: two runs give the same bits.

// The two nearest different cells so far, with their distances or squared distances. Cell 0 means none.
struct Nearest {
    int first, d_first, second, d_second;
};

// Insert a third candidate into two that are in order.
__device__ __forceinline__ void insert(Nearest& near, int cell, int d) {
    if (cell == 0) return;
    if (cell == near.first) {
        near.d_first = min(d, near.d_first);
    } else if (d < near.d_first) {
        near = {cell, d, near.first, near.d_first};
    } else if (d < near.d_second) {
        near.second = cell;
        near.d_second = d;
    }
}

extern "C" __global__ void weight_map_columns(const int* cells, int* near_out, int height, int width,
                                              int margin, int limit, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int i = index / width + margin, j = index % width;
    Nearest near = {0, limit, 0, limit};  // farther than the search goes
    for (int dy = 0; dy * dy < limit && near.second == 0 && (dy <= i || i + dy < height); dy++) {
        if (dy <= i) insert(near, cells[(i - dy) * width + j], dy);
        if (i + dy < height) insert(near, cells[(i + dy) * width + j], dy);
    }
    reinterpret_cast<Nearest*>(near_out)[index] = near;
}

extern "C" __global__ void weight_map_rows(const int* near_in, float* d1, float* d2, int width, int margin,
                                           int limit, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int inside = width - 2 * margin, i = index / inside, j = index % inside + margin;
    const Nearest* row = reinterpret_cast<const Nearest*>(near_in) + i * width;
    Nearest near = {0, limit, 0, limit};
    for (int dx = 0; dx * dx < near.d_second && dx < width; dx++) {
        for (int column = j - dx; column <= j + dx; column += dx ? 2 * dx : 1) {
            if (column < 0 || column >= width) continue;
            Nearest of_column = row[column];
            if (of_column.first)
                insert(near, of_column.first, dx * dx + of_column.d_first * of_column.d_first);
            if (of_column.second)
                insert(near, of_column.second, dx * dx + of_column.d_second * of_column.d_second);
        }
    }
    float infinity = __int_as_float(0x7f800000);
    d1[index] = near.d_first < limit ? float(sqrt(double(near.d_first))) : infinity;
    d2[index] = near.d_second < limit ? float(sqrt(double(near.d_second))) : infinity;
}

extern "C" __global__ void weight_map_forward(const int* cells, const int* classes,
                                              const float* class_weights, const float* d1, const float* d2,
                                              float* weight, int width, int margin, float w0,
                                              float two_sigma_squared, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int inside = width - 2 * margin, i = index / inside + margin, j = index % inside + margin;
    int label = classes[index];
    if (label < 0) {  // unknown
        weight[index] = 0;
        return;
    }
    float border = 0, d = d1[index] + d2[index];
    if (cells[i * width + j] == 0) border = w0 * expf(-(d * d) / two_sigma_squared);
    weight[index] = class_weights[label] + border;
}

extern "C" __global__ void weight_map_sums(const int* classes, const float* weight, double* sums, int height,
                                           int width) {
    int j = blockIdx.x * blockDim.x + threadIdx.x, label = blockIdx.y;
    if (j >= width) return;
    double sum = 0;
    for (int i = 0; i < height; i++)
        if (classes[i * width + j] == label) sum += weight[i * width + j];
    sums[label * width + j] = sum;
}

extern "C" __global__ void weight_map_scale(const float* weight, float scale, float* scaled, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) scaled[i] = scale * weight[i];
}
