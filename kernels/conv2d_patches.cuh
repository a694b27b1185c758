// The product of matrices that conv2d is, for the rungs above naive: patches is rows × columns, pixels × K²C.

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

// Of the result, what a block of the rungs above tiled computes.
constexpr int TILE_ROWS = 128, TILE_COLUMNS = 64;
