// A training tile in one launch: image, cells and classes of one place, shifted, rotated, deformed and
// re-lit. Each pixel's displacement is computed once for all three.
//
//   tile      out(p) = in(centre + rotation (p + u(p)))                     p from the tile's centre
//             u(i, j) = sum over k, m of along[k,i] · grid[k,m] · along[m,j]
//
// The image is interpolated by a cubic spline or, with order 0, taken from the nearest pixel, as cells and
// classes are. It is mirrored at its borders. Cells and classes cover the middle of the tile.
// tinyunet/sampling/augment.py explains all this; coordinates are double precision as there.
//
// Launch: one thread per pixel of the image tile, blocks of 256.

// Fold a coordinate into [0, length - 1] by mirroring at both ends.
__device__ __forceinline__ double mirror(double x, int length) {
    if (0 <= x && x <= length - 1) return x;
    if (length == 1) return 0;
    double period = 2.0 * (length - 1);
    x = fmod(fabs(x), period);
    return fmin(x, period - x);
}

// One component of u at pixel (i, j) of the tile.
__device__ __forceinline__ double displacement(const double* grid, const double* along, int points, int side,
                                               int i, int j) {
    double sum = 0;
    for (int m = 0; m < points; m++) {
        double in_column = 0;  // the grid's column m at row i
        for (int k = 0; k < points; k++) in_column += along[k * side + i] * grid[k * points + m];
        sum += in_column * along[m * side + j];
    }
    return sum;
}

// The weights of the four B-splines around a point, t in [0, 1) from the centre of the second.
__device__ __forceinline__ void bspline_weights(double t, double (&weights)[4]) {
    double s = 1 - t;
    weights[0] = s * s * s / 6;
    weights[1] = 2.0 / 3 - t * t * (2 - t) / 2;
    weights[2] = 2.0 / 3 - s * s * (2 - s) / 2;
    weights[3] = t * t * t / 6;
}

// The spline of one channel at (y, x). The coefficients are padded by one pixel before and two after
// (tinyunet/sampling/spline.py).
__device__ __forceinline__ float spline(const float* coefficients, double y, double x, int width,
                                        int channels) {
    int top = int(y), left = int(x);
    double weights_y[4], weights_x[4];
    bspline_weights(y - top, weights_y);
    bspline_weights(x - left, weights_x);
    double value = 0;
    for (int a = 0; a < 4; a++) {
        const float* row = coefficients + ((top + a) * (width + 3) + left) * channels;
        double along_row = 0;
        for (int b = 0; b < 4; b++) along_row += weights_x[b] * row[b * channels];
        value += weights_y[a] * along_row;
    }
    return value;
}

// The index in the middle of the tile of its pixel (i, j), or -1 outside the middle.
__device__ __forceinline__ int index_in_middle(int i, int j, int side, int middle) {
    int cut = (side - middle) / 2;
    i -= cut;
    j -= cut;
    return 0 <= i && i < middle && 0 <= j && j < middle ? i * middle + j : -1;
}

// motion: the rotation row by row, the centre, then the grid of displacements down and that of displacements
// right. The grey values are raised to a power between low and low + span, unless span is 0, then scaled and
// offset.
extern "C" __global__ void augment_tile(const float* source, const int* cells, const int* classes,
                                        const double* motion, const double* along, float* image_out,
                                        int* cells_out, int* classes_out, int order, int height, int width,
                                        int channels, int points, int side, int cells_side, int classes_side,
                                        float low, float span, float exponent, float factor, float offset,
                                        int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int i = index / side, j = index % side;
    const double *rotation = motion, *centre = motion + 4, *grid = motion + 6;
    double down = displacement(grid, along, points, side, i, j) + (i - (side - 1) / 2.0);
    double right = displacement(grid + points * points, along, points, side, i, j) + (j - (side - 1) / 2.0);
    double y = rotation[0] * down + rotation[1] * right + centre[0];
    double x = rotation[2] * down + rotation[3] * right + centre[1];
    y = mirror(y, height);
    x = mirror(x, width);

    int nearest = int(y + 0.5) * width + int(x + 0.5);
    int in_cells = index_in_middle(i, j, side, cells_side);
    int in_classes = index_in_middle(i, j, side, classes_side);
    if (in_cells >= 0) cells_out[in_cells] = cells[nearest];
    if (in_classes >= 0) classes_out[in_classes] = classes[nearest];

    for (int c = 0; c < channels; c++) {
        float value = order ? spline(source + c, y, x, width, channels) : source[nearest * channels + c];
        if (span > 0)  // a spline overshoots at edges, and a power needs a base of at least 0
            value = powf(fminf(fmaxf((value - low) / span, 0), 1), exponent) * span + low;
        image_out[index * channels + c] = value * factor + offset;
    }
}
