// Lets the threads of a block take turns on one core.
//
// Each thread is a fiber: a function with its own stack, which runs until it has to wait (at a barrier, or
// for the other lanes of a shuffle) or is done. Then the scheduler, run_block, resumes the next fiber that is
// ready. When none is, all must be waiting at the same __syncthreads(), and go on. Anything else is a mistake
// in the kernel.
//
// makecontext starts a fiber on its stack. From then on setjmp and longjmp switch, because they need no
// system call.
#include "cuda.hpp"

#include <link.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>

#include "state.hpp"

namespace emulator {

Indices indices;
Fiber fibers[MAX_THREADS];
Fiber* current;
int block_number;
int epoch;

namespace {

constexpr std::size_t STACK = 64 * 1024;

jmp_buf scheduler;      // a fiber that yields continues here
jmp_buf end_of_launch;  // a mistake in the kernel ends here
char message[512];
void (*kernel)(void**);
void** kernel_arguments;

void fiber_main() {
    for (;;) {
        kernel(kernel_arguments);
        current->state = State::done;
        yield();
    }
}

// Unused pages take no memory. A thread that overflows its stack runs into its neighbour's, which the
// checking build reports as out of bounds.
char* stacks() {
    static char* memory = nullptr;
    if (!memory) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        memory = static_cast<char*>(mmap(nullptr, MAX_THREADS * STACK, PROT_READ | PROT_WRITE, flags, -1, 0));
    }
    return memory;
}

void begin(Fiber& fiber) {
    static ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = stacks() + (&fiber - fibers) * STACK;
    fresh.uc_stack.ss_size = STACK;
    fiber.begun = true;
    makecontext(&fresh, fiber_main, 0);
    setcontext(&fresh);
}

void resume(int t) {
    current = &fibers[t];
    unsigned width = indices.block_size.x, height = indices.block_size.y;
    indices.thread = {t % width, t / width % height, t / (width * height)};
    if (_setjmp(scheduler)) return;  // the fiber yields
    if (current->begun) _longjmp(current->context, 1);
    begin(*current);
}

bool same(const char* line, const char* other) { return std::strcmp(line, other) == 0; }

// Either all threads are at the same barrier, or the kernel has a barrier in a branch that not all of them
// take.
void open_barrier(int threads) {
    const Fiber& first = fibers[0];
    for (int t = 0; t < threads; t++) {
        const Fiber& fiber = fibers[t];
        if (fiber.state == State::at_warp_barrier)
            fail("%s: thread %d waits for lanes of its warp that do not arrive (mask %08x)", fiber.line, t,
                 fiber.mask);
        if (fiber.state != first.state || !same(fiber.line, first.line)) {
            const Fiber& waiting = first.state == State::at_block_barrier ? first : fiber;
            const Fiber& other = &waiting == &first ? fiber : first;
            int thread = &other - fibers;
            if (other.state == State::done)
                fail("%s: divergent barrier: thread %d ended without reaching it", waiting.line, thread);
            fail("%s: divergent barrier: thread %d waits at %s", waiting.line, thread, other.line);
        }
    }
    for (int t = 0; t < threads; t++) {
        fibers[t].state = State::ready;
        fibers[t].fences_at_barrier = fibers[t].proxy_fences;
    }
    epoch++;
}

void run_block(int threads) {
    // NaN in every word, so that reading before writing shows in the results.
    Range shared = shared_memory();
    std::memset(shared.begin, 0xff, shared.end - shared.begin);
    for (int t = 0; t < threads; t++) {
        fibers[t].state = State::ready;
        fibers[t].copies.clear();
    }
    begin_block_of_warpgroups();
    for (;;) {
        bool progress = false;
        int done = 0;
        for (int t = 0; t < threads; t++) {
            if (fibers[t].state == State::ready) {
                resume(t);
                progress = true;
            }
            done += fibers[t].state == State::done;
        }
        if (done == threads) return end_block_of_warpgroups(threads);
        if (!progress) open_barrier(threads);
    }
}

// A member of the block of thread-local storage, which identifies the block.
thread_local char marker;

int find_shared_memory(dl_phdr_info* module, std::size_t, void* found) {
    for (int i = 0; i < module->dlpi_phnum; i++) {
        char* begin = static_cast<char*>(module->dlpi_tls_data);
        char* end = begin + module->dlpi_phdr[i].p_memsz;
        if (module->dlpi_phdr[i].p_type == PT_TLS && begin && begin <= &marker && &marker < end) {
            *static_cast<Range*>(found) = {begin, end};
            return 1;
        }
    }
    return 0;
}

}  // namespace

Range shared_memory() {
    marker = 0;  // the block is created on first use
    Range found = {};
    dl_iterate_phdr(find_shared_memory, &found);
    return found;
}

Range stack_of(const Fiber& fiber) {
    char* begin = stacks() + (&fiber - fibers) * STACK;
    return {begin, begin + STACK};
}

void yield() {
    if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}

void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(message, sizeof message, format, values);
    va_end(values);
    for (Fiber& fiber : fibers) fiber.begun = false;  // they were stopped in the middle of the kernel
    _longjmp(end_of_launch, 1);
}

int lane() { return (current - fibers) % WARP; }

void* mailbox(int of_lane) { return fibers[(current - fibers) / WARP * WARP + of_lane].mailbox; }

void remember_copy(float4* to, const float4* from) {
    current->copies.push_back({to, from, current->copy_group});
}

// For the build without checks.
__attribute__((weak)) void forget_written(float4*) {}
__attribute__((weak)) void check_read_by_product(const char*, int, void*) {}
__attribute__((weak)) void count_block() {}

void end_group_of_copies() { current->copy_group++; }

bool next_copy(int groups_left, float4** to, const float4** from) {
    std::deque<Copy>& copies = current->copies;
    if (copies.empty() || copies.front().group >= current->copy_group - groups_left) return false;
    *to = copies.front().to;
    *from = copies.front().from;
    copies.pop_front();
    return true;
}

void block_barrier(const char* line) {
    current->state = State::at_block_barrier;
    current->line = line;
    yield();
}

void warp_barrier(unsigned mask, const char* line) {
    if (!(mask >> lane() & 1)) fail("%s: lane %d is not in the mask %08x that it passes", line, lane(), mask);
    current->state = State::at_warp_barrier;
    current->line = line;
    current->mask = mask;
    Fiber* warp = current - lane();
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1 &&
            (warp[i].state != State::at_warp_barrier || warp[i].mask != mask || !same(warp[i].line, line)))
            return yield();
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) {
            warp[i].state = State::ready;
            warp[i].warp_epoch++;
        }
    yield();
}

const char* launch(dim3 grid_size, dim3 block_size, void (*run)(void**), void** arguments) {
    kernel = run;
    kernel_arguments = arguments;
    indices.grid_size = grid_size;
    indices.block_size = block_size;
    if (_setjmp(end_of_launch)) return message;
    int threads = block_size.x * block_size.y * block_size.z;
    // The missing lanes of an incomplete warp never reach a barrier.
    for (Fiber& fiber : fibers) fiber.state = State::done;
    for (unsigned z = 0; z < grid_size.z; z++)
        for (unsigned y = 0; y < grid_size.y; y++)
            for (unsigned x = 0; x < grid_size.x; x++) {
                indices.block = {x, y, z};
                block_number++;
                run_block(threads);
                count_block();
            }
    return nullptr;
}

}  // namespace emulator
