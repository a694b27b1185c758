// Tiles of bfloat16 in shared memory, for the rungs of conv2d that multiply copies.

// A tile in chunks of eight numbers, 16 bytes. Tensor cores and ldmatrix read eight chunks at once, one from
// each of eight rows, and the banks together are 128 bytes wide: room for eight chunks, but below one another
// these would be in the same banks. So chunks exchange places within their 128 bytes: a chunk's place is its
// number XOR that of its row, or of its pair of rows where two fill the 128 bytes.
template <int ROWS, int COLUMNS>
struct __align__(16) Tile {
    static constexpr int CHUNKS = COLUMNS / 8, ROWS_IN_128_BYTES = CHUNKS < 8 ? 8 / CHUNKS : 1;
    static constexpr int LAST = CHUNKS < 8 ? CHUNKS - 1 : 7;
    unsigned short numbers[ROWS][COLUMNS];

    // The chunk that begins at this column.
    __device__ __forceinline__ unsigned short& chunk(int row, int column) {
        int place = column / 8 ^ (row / ROWS_IN_128_BYTES & LAST);
        return numbers[row][place * 8];
    }
};
