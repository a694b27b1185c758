// The state of threads, shared by the scheduler (scheduler.cpp) and the checks (checks.cpp).
#pragma once

#include <csetjmp>
#include <deque>
#include <map>
#include <vector>

namespace emulator {

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Copy {
    float4* to;
    const float4* from;  // null: zeros
    int group;
};

struct Product {  // of wgmma.mma_async
    float* sums;
    int columns;
    unsigned long long left, right;  // descriptors
    bool left_transposed, right_transposed;
    int group;
    const char* line;
    void* code;
};

struct Fiber {
    State state;
    const char* line;  // where it waits
    unsigned mask;     // of the lanes it waits for
    int warp_epoch;    // number of warp barriers passed
    bool begun;
    jmp_buf context;
    alignas(16) char mailbox[64];
    std::deque<Copy> copies;  // begun and not yet waited for
    int copy_group;           // of the next copy
    std::deque<Product> products;
    int product_group;
    int products_begun;
    std::map<float*, std::vector<float>> hidden_sums;  // of products that nobody has waited for
    bool registers_fenced;
    int proxy_fences, fences_at_barrier;  // fence.proxy.async so far, and when the last barrier opened
};

struct Range {
    char *begin, *end;
};

constexpr int MAX_THREADS = 1024;  // per block, on every GPU so far
extern Fiber fibers[MAX_THREADS];
extern Fiber* current;
extern int block_number;  // unique to each block
extern int epoch;         // grows with each __syncthreads()

void begin_block_of_warpgroups();
void end_block_of_warpgroups(int threads);

Range shared_memory();
Range stack_of(const Fiber& fiber);
void yield();

// For the checking build. The offset of a call in this library, for addr2line, from its return address.
long offset_in_library(void* code);
void count_access(void* code, long at, int size, bool in_shared, bool writes);
void check_read_by_product(const char* at, int size, void* code);
void forget_count();  // of this thread's last access
void count_block();   // when the block is done

}  // namespace emulator
