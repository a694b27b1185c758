// The skip connection: the up-sampled channels, then those of the skip, cropped at the centre.
//
//   forward            y[n,i,j] = [upsampled[n,i,j], skip[n,i+top,j+left]]
//   backward           grad_upsampled = the first channels; grad_skip = the others in the centre, 0 around them
//   forward_by_four    the same with four channels in each thread, which divides as often as for one: for
//   backward_by_four   multiples of four channels. All channels are counted in fours
//
// Launch: one thread per element, or four elements, written, blocks of 256.

template <class Number>
__device__ __forceinline__ void concatenate(const Number* upsampled, const Number* skip, Number* y, int height,
                                            int width, int channels, int skip_height, int skip_width,
                                            int skip_channels, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int all_channels = channels + skip_channels;
    int c = index % all_channels, pixel = index / all_channels;
    int j = pixel % width, i = pixel / width % height, n = pixel / width / height;
    int top = (skip_height - height) / 2, left = (skip_width - width) / 2;
    int skip_pixel = (n * skip_height + i + top) * skip_width + j + left;
    y[index] =
        c < channels ? upsampled[pixel * channels + c] : skip[skip_pixel * skip_channels + c - channels];
}

// The threads go over grad_skip first, then over grad_upsampled.
template <class Number>
__device__ __forceinline__ void separate(const Number* grad_output, Number* grad_upsampled, Number* grad_skip,
                                         int height, int width, int channels, int skip_height,
                                         int skip_width, int skip_channels, int skip_count, int count) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= count) return;
    int all_channels = channels + skip_channels;
    if (index >= skip_count) {
        index -= skip_count;
        grad_upsampled[index] = grad_output[index / channels * all_channels + index % channels];
        return;
    }
    int c = index % skip_channels, pixel = index / skip_channels;
    int i = pixel / skip_width % skip_height - (skip_height - height) / 2;
    int j = pixel % skip_width - (skip_width - width) / 2;
    int n = pixel / skip_width / skip_height;
    bool inside = 0 <= i && i < height && 0 <= j && j < width;
    Number zero = {};
    grad_skip[index] =
        inside ? grad_output[((n * height + i) * width + j) * all_channels + channels + c] : zero;
}

extern "C" __global__ void crop_concat_forward(const float* upsampled, const float* skip, float* y,
                                               int height, int width, int channels, int skip_height,
                                               int skip_width, int skip_channels, int count) {
    concatenate(upsampled, skip, y, height, width, channels, skip_height, skip_width, skip_channels, count);
}

extern "C" __global__ void crop_concat_backward(const float* grad_output, float* grad_upsampled,
                                                float* grad_skip, int height, int width, int channels,
                                                int skip_height, int skip_width, int skip_channels,
                                                int skip_count, int count) {
    separate(grad_output, grad_upsampled, grad_skip, height, width, channels, skip_height, skip_width,
             skip_channels, skip_count, count);
}

extern "C" __global__ void crop_concat_forward_by_four(const float* upsampled, const float* skip, float* y,
                                                       int height, int width, int channels, int skip_height,
                                                       int skip_width, int skip_channels, int count) {
    concatenate(reinterpret_cast<const float4*>(upsampled), reinterpret_cast<const float4*>(skip),
                reinterpret_cast<float4*>(y), height, width, channels, skip_height, skip_width, skip_channels,
                count);
}

extern "C" __global__ void crop_concat_backward_by_four(const float* grad_output, float* grad_upsampled,
                                                        float* grad_skip, int height, int width, int channels,
                                                        int skip_height, int skip_width, int skip_channels,
                                                        int skip_count, int count) {
    separate(reinterpret_cast<const float4*>(grad_output), reinterpret_cast<float4*>(grad_upsampled),
             reinterpret_cast<float4*>(grad_skip), height, width, channels, skip_height, skip_width,
             skip_channels, skip_count, count);
}
