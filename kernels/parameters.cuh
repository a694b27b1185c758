// One launch for all parameters of a network. It has dozens of them, most so small that a launch takes longer
// than the work.
//
// One thread per element, blocks of 256. A table has a row for each parameter, in 64-bit words: the addresses
// of its arrays, then count, its elements, and first_block, the blocks of the parameters before it.

// The row that this block works on. first_block grows from row to row.
template <class Row>
__device__ __forceinline__ const Row& row_of_block(const unsigned long long* table, int count) {
    const Row* rows = reinterpret_cast<const Row*>(table);
    int low = 0, high = count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (rows[middle].first_block <= blockIdx.x)
            low = middle;
        else
            high = middle;
    }
    return rows[low];
}
