// Runs the kernels on the CPU: what they need of CUDA or Metal, as C++17, so that the very sources which devices compile
// can be executed and compared with a reference where there is no device.
//
// The threads of a block are fibres of one system thread. A fibre runs until it waits at a barrier or in a warp operation,
// and goes on when all that take part have arrived; when none can go on, threads have parted ways, and the process says so
// and stops. Shared memory is NaN when a block starts. The order in which fibres run is a parameter: a result that depends
// on it betrays a missing barrier.

#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <ucontext.h>

#define ETTIN_EMULATOR 1

namespace emulator {

constexpr unsigned THREADS_MOST = 128, LANES = 32, WORDS_MOST = 8;
constexpr size_t STACK = 64 * 1024, SHARED_MOST = 32 * 1024, ARRAYS_MOST = 8;

struct Dim {
    unsigned x, y, z;
};

struct Meeting {
    unsigned arrived = 0, passed = 0;
};

struct Block {
    ucontext_t contexts[THREADS_MOST];
    jmp_buf points[THREADS_MOST], scheduler;
    bool started[THREADS_MOST], done[THREADS_MOST], progress;
    std::unique_ptr<char[]> stacks{new char[STACK * THREADS_MOST]};
    unsigned threads, current;
    Dim index;
    Meeting barrier, warps[THREADS_MOST / LANES];
    // What the lanes of a warp show each other. Two sets: a lane may be one operation ahead of those still reading.
    uint32_t shown[2][THREADS_MOST][WORDS_MOST];
    alignas(16) char shared[SHARED_MOST];
    size_t used, arrays[ARRAYS_MOST], array_count, next_array[THREADS_MOST];
    void (*run)(void*);
    void* call;
};

inline Block& block() {
    static thread_local Block block;
    return block;
}

inline unsigned tid() { return block().current; }

[[noreturn]] inline void fail(const char* message) {
    std::fprintf(stderr, "emulator: block (%u, %u, %u): %s\n", block().index.x, block().index.y, block().index.z, message);
    std::abort();
}

// Waits until `count` threads have come.
inline void meet(Meeting& meeting, unsigned count) {
    Block& b = block();
    unsigned passed = meeting.passed;
    if (++meeting.arrived == count) {
        meeting.arrived = 0;
        meeting.passed++;
        b.progress = true;
        return;
    }
    while (meeting.passed == passed)
        if (_setjmp(b.points[b.current]) == 0) _longjmp(b.scheduler, 1);
}

inline void barrier() { meet(block().barrier, block().threads); }

// Shows the other lanes of the warp some words and waits for theirs; gives the words of lane 0.
inline const uint32_t (*show(const uint32_t* words, unsigned count))[WORDS_MOST] {
    Block& b = block();
    unsigned warp = b.current / LANES;
    auto shown = b.shown[b.warps[warp].passed % 2];
    std::memcpy(shown[b.current], words, count * sizeof *words);
    meet(b.warps[warp], LANES);
    return shown + warp * LANES;
}

inline float shuffle_xor(float value, unsigned mask) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    word = show(&word, 1)[tid() % LANES ^ mask][0];
    std::memcpy(&value, &word, 4);
    return value;
}

// The next array of shared memory that a thread names: the same for all, as all name them in one order.
template <typename T>
T* shared_array(size_t count) {
    Block& b = block();
    size_t which = b.next_array[b.current]++;
    if (which == b.array_count) {
        b.arrays[b.array_count++] = b.used;
        b.used = (b.used + count * sizeof(T) + 15) / 16 * 16;
        if (b.used > SHARED_MOST) fail("more shared memory than every device has");
    }
    return reinterpret_cast<T*>(b.shared + b.arrays[which]);
}

[[noreturn]] inline void start() {
    Block& b = block();
    b.run(b.call);
    b.done[b.current] = b.progress = true;
    _longjmp(b.scheduler, 1);
}

__attribute__((noinline)) inline void resume(unsigned i) {
    Block& b = block();
    b.current = i;
    if (_setjmp(b.scheduler) != 0) return;
    if (b.started[i]) _longjmp(b.points[i], 1);
    b.started[i] = true;
    getcontext(&b.contexts[i]);
    b.contexts[i].uc_stack.ss_sp = b.stacks.get() + STACK * i;
    b.contexts[i].uc_stack.ss_size = STACK;
    b.contexts[i].uc_link = nullptr;
    makecontext(&b.contexts[i], reinterpret_cast<void (*)()>(start), 0);
    setcontext(&b.contexts[i]);
}

inline void run_block(Dim index, unsigned threads, bool reverse) {
    Block& b = block();
    b.index = index;
    b.threads = threads;
    b.used = b.array_count = 0;
    b.barrier = Meeting();
    for (Meeting& warp : b.warps) warp = Meeting();
    std::memset(b.shared, 0xff, sizeof b.shared);
    for (unsigned i = 0; i < threads; i++) b.started[i] = b.done[i] = false, b.next_array[i] = 0;
    for (unsigned left = threads; left > 0;) {
        b.progress = false;
        for (unsigned turn = 0; turn < threads; turn++) {
            unsigned i = reverse ? threads - 1 - turn : turn;
            if (b.done[i]) continue;
            resume(i);
            left -= b.done[i];
        }
        if (!b.progress) fail("threads wait for others that have ended or wait elsewhere");
    }
    if (b.barrier.arrived != 0) fail("a barrier was not reached by all");
}

// IEEE half precision.
inline float widen_half(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
    float y;
    uint32_t bits;
    if (exponent == 0) {
        y = std::ldexp((float)fraction, -24);
        std::memcpy(&bits, &y, 4);
        bits |= sign;
    } else {
        bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    }
    std::memcpy(&y, &bits, 4);
    return y;
}

inline uint16_t narrow_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint16_t sign = bits >> 16 & 0x8000;
    float a = std::fabs(x);
    if (!(a == a)) return sign | 0x7e00;
    if (a >= 65520.0f) return sign | 0x7c00;
    if (a == 0.0f) return sign;
    int exponent;
    std::frexp(a, &exponent);
    // Spacing of the numbers around a; rounding to it may carry into the next exponent, which the encoding absorbs.
    int spacing = (exponent > -13 ? exponent : -13) - 11;
    uint32_t steps = (uint32_t)std::nearbyint(std::ldexp(a, -spacing));
    return sign | (uint16_t)(steps + ((uint32_t)(spacing + 24) << 10));
}

// Calling a kernel by its name, its arguments checked against its parameters.

struct Call {
    void** arguments;
};

// 'u' and 'f' for scalars, capitals for buffers: 'U', 'F', and the width in bytes for other elements.
template <typename P>
constexpr char kind() {
    using T = std::remove_cv_t<std::remove_reference_t<P>>;
    if constexpr (std::is_pointer_v<T>) {
        using E = std::remove_cv_t<std::remove_pointer_t<T>>;
        if constexpr (std::is_same_v<E, float>) return 'F';
        else if constexpr (std::is_same_v<E, unsigned>) return 'U';
        else return '0' + sizeof(E);
    } else {
        return std::is_same_v<T, float> ? 'f' : 'u';
    }
}

template <typename P>
P argument(void* at) {
    return *static_cast<std::remove_reference_t<P>*>(at);
}
}  // namespace emulator
