// Counts wavefronts, the turns in which memory serves a warp, as part of the checking build.
//
// The lanes of a warp execute an instruction together, and memory serves them together: in each turn global
// memory serves one segment of 128 bytes, shared memory one word from each of its 32 banks. (Lanes that
// access 8 or 16 bytes each are served 16 or 8 at a time. Lanes that access the same word share it.) So
// neighbours in a warp should be neighbours in global memory, and use different banks of shared memory.
//
// Here the lanes run one after the other. The k-th execution of an instruction in one lane is counted
// together with the k-th in the others, which is exact unless lanes take different paths through a loop.
#include "cuda.hpp"

#include <unordered_map>
#include <vector>

#include "state.hpp"

namespace emulator {
namespace {

constexpr int SEGMENT = 128, WORD = 4, BANKS = 32;
constexpr int SHOWN = 64;  // executions of an instruction that are kept for pictures

struct Request {
    long of_lane[WARP];  // addresses; 0: the lane makes no access
};

struct Site {  // an instruction that accesses memory
    int size;
    bool shared, writes;
    std::vector<Request> requests[MAX_THREADS / WARP];
    int times[MAX_THREADS];  // executions per thread
    long wavefronts, at_best;
};

struct WarpAccess {  // an instruction, executed once by the first warp of the first block
    long offset, shared, writes, size, time, of_lane[WARP];
};

std::unordered_map<void*, Site> sites;
std::vector<WarpAccess> first_warp;
bool first_block_is_done = false;
Site* last_site[MAX_THREADS];  // the latest of each thread

void make_distinct(std::vector<long>& numbers) {
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
}

// The distinct units of `unit` bytes that the lanes first … last - 1 access.
std::vector<long> units(const Request& request, int first, int last, int size, int unit) {
    std::vector<long> found;
    for (int i = first; i < last; i++)
        for (long at = request.of_lane[i], end = at + size; at && at < end; at += std::min(size, unit))
            found.push_back(at / unit);
    make_distinct(found);
    return found;
}

int in_worst_bank(const std::vector<long>& words) {
    int in_bank[BANKS] = {};
    for (long word : words) in_bank[word % BANKS]++;
    return *std::max_element(in_bank, in_bank + BANKS);
}

void add(const Request& request, Site& site) {
    int at_once = WARP * WORD / std::max(site.size, WORD), wavefronts = 0;
    if (site.shared)
        for (int first = 0; first < WARP; first += at_once)
            wavefronts += in_worst_bank(units(request, first, first + at_once, site.size, WORD));
    else
        wavefronts = units(request, 0, WARP, site.size, SEGMENT).size();
    int bytes =
        std::min(site.size, WORD) * units(request, 0, WARP, site.size, std::min(site.size, WORD)).size();
    site.wavefronts += wavefronts;
    site.at_best += (bytes + SEGMENT - 1) / SEGMENT;
}

void keep_first_warp() {
    for (const auto& [code, site] : sites) {
        const std::vector<Request>& requests = site.requests[0];
        for (long time = 0; time < long(requests.size()) && time < SHOWN; time++) {
            WarpAccess kept = {offset_in_library(code), site.shared, site.writes, site.size, time, {}};
            std::copy_n(requests[time].of_lane, WARP, kept.of_lane);
            first_warp.push_back(kept);
        }
    }
    first_block_is_done = true;
}

}  // namespace

void count_access(void* code, long at, int size, bool in_shared, bool writes) {
    auto [found, is_new] = sites.try_emplace(code);
    Site& site = found->second;
    if (is_new) site.size = size, site.shared = in_shared, site.writes = writes;
    int thread = current - fibers;
    std::vector<Request>& requests = site.requests[thread / WARP];
    unsigned time = site.times[thread]++;
    if (requests.size() <= time) requests.resize(time + 1);
    requests[time].of_lane[thread % WARP] = at;
    last_site[thread] = &site;
}

void forget_count() {
    int thread = current - fibers;
    Site& site = *last_site[thread];
    site.requests[thread / WARP][--site.times[thread]].of_lane[thread % WARP] = 0;
}

void count_block() {
    if (!first_block_is_done) keep_first_warp();
    for (auto& [code, site] : sites) {
        for (std::vector<Request>& requests : site.requests) {
            for (const Request& request : requests)
                if (std::any_of(request.of_lane, request.of_lane + WARP, [](long at) { return at != 0; }))
                    add(request, site);
            requests.clear();
        }
        std::fill(std::begin(site.times), std::end(site.times), 0);
    }
}

}  // namespace emulator

struct InstructionCount {
    long offset, shared, wavefronts, at_best;
};

// The counts since the last call, one entry per instruction. With null: the number of entries.
extern "C" int take_counts(InstructionCount* counts, int number) {
    if (!counts) return emulator::sites.size();
    for (auto& [code, site] : emulator::sites)
        *counts++ = {emulator::offset_in_library(code), site.shared, site.wavefronts, site.at_best};
    emulator::sites.clear();
    return number;
}

// The accesses of the first warp of the first block since the last call. With null: their number.
extern "C" int take_first_warp(emulator::WarpAccess* accesses, int number) {
    using namespace emulator;
    if (!accesses) return first_warp.size();
    std::copy_n(first_warp.begin(), number, accesses);
    first_warp.clear();
    first_block_is_done = false;
    return number;
}
