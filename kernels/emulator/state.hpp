// The state of threads, shared by the scheduler (scheduler.cpp) and the checks (checks.cpp).
#pragma once

#include <csetjmp>
#include <deque>

namespace emulator {

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Copy {
    float4* to;
    const float4* from;  // null: zeros
    int group;
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
};

struct Range {
    char *begin, *end;
};

constexpr int MAX_THREADS = 1024;  // per block, on every GPU so far
extern Fiber fibers[MAX_THREADS];
extern Fiber* current;
extern int block_number;  // unique to each block
extern int epoch;         // grows with each __syncthreads()

Range shared_memory();
Range stack_of(const Fiber& fiber);
void yield();

// For the checking build. The offset of a call in this library, for addr2line, from its return address.
long offset_in_library(void* code);
void count_access(void* code, long at, int size, bool in_shared, bool writes);
void forget_count();  // of this thread's last access
void count_block();   // when the block is done

}  // namespace emulator
