// Products of matrices by warpgroups: wgmma.mma_async, and what orders it.
//
// Its factors lie in shared memory in pieces of eight rows of 32, 64 or 128 bytes, one piece after another.
// The numbers in a row are neighbours along K or, transposed, along the other axis. Within a piece, chunks of
// 16 bytes exchange places: some bits of an address, which number the chunk in its row, are XORed with those
// that number the row. Where the pieces are says a descriptor (PTX manual, "Matrix Descriptor Format" and
// "Canonical Layouts" of wgmma). What it calls leading is of use only transposed.
#include "cuda.hpp"

#include <cstdint>

#include "state.hpp"

namespace emulator {
namespace {

constexpr int WARPGROUP = 4 * WARP, ROWS = 64, DEPTH = 16, PER_CHUNK = 8, CHUNK = 16;  // numbers, and bytes

Range shared;  // of this block

// What the warpgroups have begun, which all of their threads have to begin.
struct Begun {
    unsigned long long left, right;
    const char* line;
};
std::vector<Begun> begun[MAX_THREADS / WARPGROUP];

char* first_address() { return shared.begin - reinterpret_cast<std::uintptr_t>(shared.begin) % 1024; }

struct Matrix {
    int start, leading, stride;  // bytes
    int row;                     // bytes
    bool transposed;
    const char* line;

    Matrix(unsigned long long descriptor, bool is_transposed, const char* of_line)
        : transposed(is_transposed), line(of_line) {
        auto bytes = [descriptor](int bit) { return int(descriptor >> bit & 0x3fff) * 16; };
        start = bytes(0), leading = bytes(16), stride = bytes(32);
        int mode = descriptor >> 62;
        row = mode == 0 ? 0 : 256 >> mode;
        if (row == 0) fail("%s: the emulator does not know matrices without swizzle", line);
        if (descriptor >> 49 & 7) fail("%s: the emulator does not know a base offset of matrices", line);
    }

    // The place of the number at `outer` along M or N, and k along K.
    const char* place(int outer, int k) const {
        int address = start;
        if (transposed) {
            int in_row = row / 2;
            address += outer / in_row * leading + outer % in_row * 2 + k / 8 * stride + k % 8 * row;
        } else {
            address += outer / 8 * stride + outer % 8 * row + k * 2;
        }
        int chunks = row / CHUNK;
        address ^= (address >> 7 & (chunks - 1)) * CHUNK;
        char* found = first_address() + address;
        if (found < shared.begin || found >= shared.end)
            fail("%s: a product reads byte %d of %ld bytes of shared memory", line, address,
                 long(shared.end - first_address()));
        return found;
    }

    float number(int outer, int k) const {
        unsigned short bits;
        std::memcpy(&bits, place(outer, k), sizeof bits);
        return number_of(unsigned(bits) << 16);
    }

    // The threads of a warpgroup share the checks: eight of them have eight chunks that are read at once.
    void check(int rows, void* code) const {
        int thread = (current - fibers) % WARPGROUP;
        for (int chunk = thread; chunk < rows * DEPTH / PER_CHUNK; chunk += WARPGROUP) {
            int piece = chunk / 16 * PER_CHUNK, number = chunk % PER_CHUNK;
            int half = chunk / PER_CHUNK % 2 * PER_CHUNK;
            const char* at = transposed ? place(piece, half + number) : place(piece + number, half);
            check_read_by_product(at, CHUNK, code);
        }
    }
};

// This thread's part: rows g and g + 8 of the 16 of its warp, columns 2t and 2t + 1 of every eight, with
// g = lane / 4 and t = lane % 4.
void multiply(const Product& product, std::vector<float>& sums) {
    Matrix left(product.left, product.left_transposed, product.line);
    Matrix right(product.right, product.right_transposed, product.line);
    left.check(ROWS, product.code);
    right.check(product.columns, product.code);
    int g = lane() / 4, t = lane() % 4, warp = (current - fibers) % WARPGROUP / WARP;
    float rows[2][DEPTH], column[DEPTH];
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < DEPTH; k++) rows[half][k] = left.number(16 * warp + g + 8 * half, k);
    constexpr int AT_ONCE = TENSOR_CORE.bytes_at_once / 2;
    for (int c = 0; c < product.columns / 4; c++) {
        for (int k = 0; k < DEPTH; k++) column[k] = right.number(c / 2 * 8 + 2 * t + c % 2, k);
        for (int half = 0; half < 2; half++) {
            float& sum = sums[c / 2 * 4 + 2 * half + c % 2];
            for (int k = 0; k < DEPTH; k += AT_ONCE)
                sum = add_products(sum, rows[half] + k, column + k, AT_ONCE);
        }
    }
}

}  // namespace

void begin_block_of_warpgroups() {
    shared = shared_memory();
    for (std::vector<Begun>& of_warpgroup : begun) of_warpgroup.clear();
    for (Fiber& fiber : fibers) {
        fiber.products.clear();
        fiber.hidden_sums.clear();
        fiber.products_begun = 0;
        fiber.registers_fenced = false;
        fiber.proxy_fences = fiber.fences_at_barrier = 0;
    }
}

void end_block_of_warpgroups(int threads) {
    for (int t = 0; t < threads; t++) {
        const std::vector<Begun>& of_warpgroup = begun[t / WARPGROUP];
        std::size_t own = fibers[t].products_begun;
        if (own < of_warpgroup.size())
            fail("%s: thread %d takes no part in a product of its warpgroup", of_warpgroup[own].line, t);
    }
}

unsigned shared_address(const void* place) { return static_cast<const char*>(place) - first_address(); }

void fence_registers(const char* line) {
    warp_barrier(0xffffffff, line);
    current->registers_fenced = true;
}

void fence_proxy() { current->proxy_fences++; }

void begin_product(float* sums, int columns, unsigned long long left, unsigned long long right,
                   bool left_transposed, bool right_transposed, const char* line) {
    void* code = __builtin_return_address(0);
    warp_barrier(0xffffffff, line);
    std::vector<Begun>& of_warpgroup = begun[(current - fibers) / WARPGROUP];
    std::size_t own = current->products_begun++;
    if (own == of_warpgroup.size()) of_warpgroup.push_back({left, right, line});
    const Begun& first = of_warpgroup[own];
    if (first.left != left || first.right != right)
        fail("%s: thread %d begins another product than its warpgroup does", line, int(current - fibers));
    auto [hidden, is_new] = current->hidden_sums.try_emplace(sums, sums, sums + columns / 2);
    if (is_new && !current->registers_fenced)
        fail("%s: no wgmma.fence since the registers of this product were accessed", line);
    std::fill(sums, sums + columns / 2, std::nanf(""));
    current->products.push_back(
        {sums, columns, left, right, left_transposed, right_transposed, current->product_group, line, code});
}

void end_group_of_products(const char* line) {
    warp_barrier(0xffffffff, line);
    current->product_group++;
}

void wait_for_products(int groups_left, const char* line) {
    warp_barrier(0xffffffff, line);
    std::deque<Product>& products = current->products;
    while (!products.empty() && products.front().group < current->product_group - groups_left) {
        multiply(products.front(), current->hidden_sums.at(products.front().sums));
        products.pop_front();
    }
    // Results appear once no product adds to them any more. From then on they may be accessed.
    std::map<float*, std::vector<float>> still;
    for (const Product& product : products)
        if (auto found = current->hidden_sums.extract(product.sums)) still.insert(std::move(found));
    if (!current->hidden_sums.empty()) current->registers_fenced = false;
    for (auto& [sums, values] : current->hidden_sums) std::copy(values.begin(), values.end(), sums);
    current->hidden_sums.swap(still);
}

}  // namespace emulator
