// The paper's elastic deformation of an image, its labels and its weights, in one launch: each pixel's
// displacement is computed once and serves all three.
//
//   forward   out(i, j) = in((i, j) + u(i, j))
//             u(i, j) = sum over k, m of along_y[k,i] · grid[k,m] · along_x[m,j]
//
// The image is a cubic spline, labels and weights are those of the nearest pixel; beyond its borders an image
// is mirrored. As in tinyunet/augment_elastic.py, which explains it; coordinates are double as there.
//
// Launch: a thread a pixel, blocks of 256.

// Fold a coordinate into [0, length - 1] by mirroring at both ends.
__device__ __forceinline__ double mirror(double x, int length) {
    if (0 <= x && x <= length - 1) return x;
    if (length == 1) return 0;
    double period = 2.0 * (length - 1);
    x = fmod(fabs(x), period);
    return fmin(x, period - x);
}

// One component of u.
__device__ __forceinline__ double displacement(const double* grid, const double* along_y,
                                               const double* along_x, int rows, int columns, int height,
                                               int width, int i, int j) {
    double sum = 0;
    for (int m = 0; m < columns; m++) {
        double vector = 0;  // of the grid's column m at row i
        for (int k = 0; k < rows; k++) vector += along_y[k * height + i] * grid[k * columns + m];
        sum += vector * along_x[m * width + j];
    }
    return sum;
}

// How the four bumps around a point weigh there; t in [0, 1) from the second of them.
__device__ __forceinline__ void bump_weights(double t, double (&weights)[4]) {
    double s = 1 - t;
    weights[0] = s * s * s / 6;
    weights[1] = 2.0 / 3 - t * t * (2 - t) / 2;
    weights[2] = 2.0 / 3 - s * s * (2 - s) / 2;
    weights[3] = t * t * t / 6;
}

extern "C" __global__ void elastic_deform_forward(const float* coefficients, const int* labels,
                                                  const float* weights, const double* grid,
                                                  const double* along_y, const double* along_x,
                                                  float* image_out, int* labels_out, float* weights_out,
                                                  int height, int width, int channels, int rows,
                                                  int columns, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int i = index / width, j = index % width;
    double y = i + displacement(grid, along_y, along_x, rows, columns, height, width, i, j);
    double x = j + displacement(grid + rows * columns, along_y, along_x, rows, columns, height, width, i, j);
    y = mirror(y, height);
    x = mirror(x, width);

    int nearest = int(y + 0.5) * width + int(x + 0.5);
    labels_out[index] = labels[nearest];
    weights_out[index] = weights[nearest];

    int top = int(y), left = int(x);
    double weights_y[4], weights_x[4];
    bump_weights(y - top, weights_y);
    bump_weights(x - left, weights_x);
    for (int c = 0; c < channels; c++) {
        double value = 0;
        for (int a = 0; a < 4; a++) {
            // With a frame of one pixel before and two after (tinyunet/augment_spline.py).
            const float* row = coefficients + ((top + a) * (width + 3) + left) * channels + c;
            double along_row = 0;
            for (int b = 0; b < 4; b++) along_row += weights_x[b] * row[b * channels];
            value += weights_y[a] * along_row;
        }
        image_out[index * channels + c] = value;
    }
}
