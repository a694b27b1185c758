// Overlap-tile: cuts tiles out of an image that is mirrored at its edges, and adds their scores to its
// pixels.
//
//   gather   tile[i,j,c] = image[mirror(top + i), mirror(left + j), c]
//   add      scores[top + i, left + j, k] += output[cut_down + i, cut_across + j, k]
//
// Image and scores may be views, rotated and flipped. A view is given by its origin and by the steps to its
// next row and column: element (i, j, c) is at origin + i · down + j · across + c. mirror folds as in
// tinyunet/prediction/tiling.py.
//
// Launch: one thread per element of the tile, or of the part of the output that is added, blocks of 256.

// Fold coordinate i of the mirrored image, which has no end, to one of the `size` pixels that exist.
__device__ __forceinline__ int mirror(int i, int size) {
    if (size == 1) return 0;
    int period = 2 * (size - 1);
    i = (i % period + period) % period;  // % keeps the sign of its first operand
    return min(i, period - i);
}

extern "C" __global__ void tiling_gather(const float* image, float* tile, int origin, int down, int across,
                                         int height, int width, int channels, int top, int left,
                                         int tile_width, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int c = index % channels, j = index / channels % tile_width, i = index / channels / tile_width;
    tile[index] = image[origin + mirror(top + i, height) * down + mirror(left + j, width) * across + c];
}

extern "C" __global__ void tiling_add(const float* output, float* scores, int origin, int down, int across,
                                      int classes, int top, int left, int cut_down, int cut_across,
                                      int output_width, int width, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int k = index % classes, j = index / classes % width, i = index / classes / width;
    scores[origin + (top + i) * down + (left + j) * across + k] +=
        output[((cut_down + i) * output_width + cut_across + j) * classes + k];
}
