// The product of matrices that conv2d is, for the rungs above naive: patches is rows × columns, pixels × K²C.
//
// Where a number of patches is in x takes several divisions, and a division some twenty instructions. The fast
// rungs divide once, and from there go on by additions: see `advance`.

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

// A row of patches: the window of one output pixel. i, j: where it begins in x, perhaps in the padding; offset:
// of channel 0 there. Behind the last row it lies below the image, so that nothing in it is inside.
struct Window {
    int i, j, offset;
};

__device__ __forceinline__ Window window_of(const Shape& s, int row) {
    int n = row / (s.out_height * s.out_width), pixel = row % (s.out_height * s.out_width);
    int i = pixel / s.out_width - s.padding, j = pixel % s.out_width - s.padding;
    return {row < s.rows ? i : s.height, j, ((n * s.height + i) * s.width + j) * s.channels};
}

// A column of patches: a place p, q in the window, and a channel. offset: from the window's.
struct Tap {
    int p, q, c, offset;
};

__device__ __forceinline__ Tap tap_of(const Shape& s, int column) {
    int place = column / s.channels, c = column % s.channels;
    int p = place / s.size, q = place % s.size;
    return {p, q, c, (p * s.width + q) * s.channels + c};
}

// Where a number is in an array. Those that are not there are 0.
struct Place {
    int offset;
    bool exists;
};

// In x, the number of patches in this row and column.
__device__ __forceinline__ Place place_in_x(const Shape& s, const Window& window, const Tap& tap) {
    unsigned i = window.i + tap.p, j = window.j + tap.q;  // huge where they are negative
    return {window.offset + tap.offset, tap.p < s.size && i < s.height && j < s.width};
}

__device__ __forceinline__ Place place_in_matrix(int row, int rows, int column, int columns) {
    return {row * columns + column, row < rows && column < columns};
}

// So many columns further. In x they follow one another, but where the window's row ends.
__device__ __forceinline__ void advance(Tap& tap, const Shape& s, int columns) {
    tap.c += columns;
    tap.offset += columns;
    while (tap.c >= s.channels) {
        tap.c -= s.channels;
        if (++tap.q < s.size) continue;
        tap.q = 0;
        tap.p++;
        tap.offset += (s.width - s.size) * s.channels;
    }
}

// So many rows further, whether they exist or not.
__device__ __forceinline__ void advance(Window& window, const Shape& s, int rows) {
    window.j += rows;
    window.offset += rows * s.channels;
    while (window.j >= s.out_width - s.padding) {
        window.j -= s.out_width;
        window.offset += (s.width - s.out_width) * s.channels;
        if (++window.i < s.out_height - s.padding) continue;
        window.i = -s.padding;
        window.offset += (s.height - s.out_height) * s.width * s.channels;
    }
}

// Of the result, what a block of the rungs above tiled computes.
constexpr int TILE_ROWS = 128, TILE_COLUMNS = 64;
