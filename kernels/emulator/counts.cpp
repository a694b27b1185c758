// What the checking build counts beside its checks: wavefronts, the turns in which memory serves a warp.
//
// The lanes of a warp execute an instruction together, and what they ask for is served together: of global
// memory one segment of 128 bytes a turn; of shared memory one word of each of its 32 banks. (Lanes that ask for
// 8 or 16 bytes each are served 16 or 8 at a time. Lanes that ask for the same word share it.) Hence neighbours
// in a warp should be neighbours in global memory, and should not meet in a bank of shared memory.
//
// Here the lanes run one after the other. What the k-th execution of an instruction asks for in one lane
// belongs together with the k-th in the others: exact unless lanes go different ways through one loop.
#include "cuda.hpp"

#include <unordered_map>
#include <vector>

#include "state.hpp"

namespace emulator {
namespace {

constexpr int SEGMENT = 128, WORD = 4, BANKS = 32;

struct Request {
    long of_lane[WARP];  // addresses; 0: the lane takes no part
};

struct Site {  // an instruction that accesses memory
    int size;
    bool shared;
    std::vector<Request> requests[MAX_THREADS / WARP];
    int times[MAX_THREADS];  // how often each thread came by
    long wavefronts, at_best;
};

std::unordered_map<void*, Site> sites;
Site* last_site[MAX_THREADS];  // at which each thread was

void make_distinct(std::vector<long>& numbers) {
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
}

// In units of so many bytes, what the lanes first … last - 1 ask for, each unit once.
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
    int bytes = std::min(site.size, WORD) * units(request, 0, WARP, site.size, std::min(site.size, WORD)).size();
    site.wavefronts += wavefronts;
    site.at_best += (bytes + SEGMENT - 1) / SEGMENT;
}

}  // namespace

void count_access(void* code, long at, int size, bool in_shared) {
    auto [found, is_new] = sites.try_emplace(code);
    Site& site = found->second;
    if (is_new) site.size = size, site.shared = in_shared;
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

struct Counted {
    long place, shared, wavefronts, at_best;
};

// What was counted since the last call, an entry for each instruction. Without a place for them: how many
// there are.
extern "C" int take_counts(Counted* counted, int number) {
    if (!counted) return emulator::sites.size();
    for (auto& [code, site] : emulator::sites)
        *counted++ = {emulator::place_in_library(code), site.shared, site.wavefronts, site.at_best};
    emulator::sites.clear();
    return number;
}
