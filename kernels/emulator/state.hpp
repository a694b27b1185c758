// What the scheduler (scheduler.cpp) and the checks (checks.cpp) both know of a thread.
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
    const char* line;  // at which it waits
    unsigned mask;     // of the lanes for which it waits
    int warp_epoch;    // how often it has met others at a warp barrier
    bool begun;
    jmp_buf context;
    alignas(16) char mailbox[64];
    std::deque<Copy> copies;  // that were asked for and not waited for
    int copy_group;           // of the next copy
};

struct Range {
    char *begin, *end;
};

constexpr int MAX_THREADS = 1024;  // of a block, on every GPU so far
extern Fiber fibers[MAX_THREADS];
extern Fiber* current;
extern int block_number;  // never the same for two blocks
extern int epoch;         // one more after each __syncthreads()

Range shared_memory();
Range stack_of(const Fiber& fiber);
void yield();

// Of the checking build. Where an address of code is in this library, for addr2line: a return address is behind
// its call.
long place_in_library(void* code);
void count_access(void* code, long at, int size, bool in_shared);
void forget_count();  // of this thread's last access
void count_block();   // the block is done

}  // namespace emulator
