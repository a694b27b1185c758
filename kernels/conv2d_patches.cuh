// Where the elements of patches (rows × columns, that is, pixels × K²C) are in x, for the rungs above naive.
//
// Finding an element takes several divisions of about twenty instructions each. The fast rungs divide once
// and go on by additions: see `advance`.

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

// A row of patches: the window of one output pixel. It begins at i, j of x, perhaps in the padding; offset is
// that of channel 0 there. After the last row it lies below the image, so that all of it is outside.
struct Window {
    int i, j, offset;
};

__device__ __forceinline__ Window window_of(const Shape& s, int row) {
    int n = row / (s.out_height * s.out_width), pixel = row % (s.out_height * s.out_width);
    int i = pixel / s.out_width - s.padding, j = pixel % s.out_width - s.padding;
    return {row < s.rows ? i : s.height, j, ((n * s.height + i) * s.width + j) * s.channels};
}

// A column of patches: pixel p, q of the window, and a channel. offset counts from the window's.
struct Tap {
    int p, q, c, offset;
};

__device__ __forceinline__ Tap tap_of(const Shape& s, int column) {
    int pixel = column / s.channels, c = column % s.channels;
    int p = pixel / s.size, q = pixel % s.size;
    return {p, q, c, (p * s.width + q) * s.channels + c};
}

// The offset of an element in an array. An element that does not exist counts as 0.
struct Offset {
    int value;
    bool exists;
};

// The offset in x of the element of patches in this row and column.
__device__ __forceinline__ Offset offset_in_x(const Shape& s, const Window& window, const Tap& tap) {
    unsigned i = window.i + tap.p, j = window.j + tap.q;  // huge where they are negative
    return {window.offset + tap.offset, tap.p < s.size && i < s.height && j < s.width};
}

__device__ __forceinline__ Offset offset_in_matrix(int row, int rows, int column, int columns) {
    return {row * columns + column, row < rows && column < columns};
}

// Four numbers at once.
__device__ __forceinline__ float4& as_float4(const float& first) {
    return *reinterpret_cast<float4*>(const_cast<float*>(&first));
}

__device__ __forceinline__ float4 load_float4(const float* array, Offset offset) {
    return offset.exists ? as_float4(array[offset.value]) : make_float4(0, 0, 0, 0);
}

// Move on by some columns. They are contiguous in x except at the end of a row of the window.
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

// Move on by some rows, whether or not they exist.
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
