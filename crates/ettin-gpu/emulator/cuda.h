// The words of CUDA that the kernels use.

#pragma once
#include "emulator.h"

#define __device__
#define __forceinline__ inline
#define SHARED_ARRAY(type, name, count) type* name = emulator::shared_array<type>(count)
#define KERNEL static void
#define threadIdx (emulator::Dim{emulator::tid(), 0, 0})
#define blockIdx (emulator::block().index)
#define __syncthreads() emulator::barrier()
#define __shfl_xor_sync(all, value, mask) emulator::shuffle_xor(value, mask)

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline float exponential2(float x) { return std::exp2(x); }
inline float widen_half(unsigned short x) { return emulator::widen_half(x); }
inline unsigned short narrow_half(float x) { return emulator::narrow_half(x); }

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// mma.m16n8k16: every lane shows its six words and takes what it needs of the others'.
template <typename T>
void mma(float d[4], const unsigned a[4], unsigned b0, unsigned b1, T) {
    unsigned mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    auto lanes = emulator::show(mine, 6);
    auto element = [](unsigned word, unsigned high) {
        T x;
        x.bits = (unsigned short)(high ? word >> 16 : word);
        return widen(x);
    };
    unsigned g = emulator::tid() % 32 / 4, t = emulator::tid() % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        double sum = d[i];
        for (unsigned k = 0; k < 16; k++) {
            unsigned pair = k % 8 / 2, half = k / 8;
            float x = element(lanes[row % 8 * 4 + pair][half * 2 + row / 8], k % 2);
            float y = element(lanes[column * 4 + pair][4 + half], k % 2);
            sum += (double)x * y;
        }
        d[i] = (float)sum;
    }
}

// cvt.rn.f16x2 and cvt.rn.bf16x2.
template <typename T>
unsigned pack(float x, float y, T) {
    T low, high;
    narrow(x, low);
    narrow(y, high);
    return (unsigned)low.bits | (unsigned)high.bits << 16;
}

// ldmatrix.x4.trans.
inline void load_transposed(unsigned r[4], const void* row) {
    unsigned words[2];
    std::memcpy(words, &row, 8);
    auto lanes = emulator::show(words, 2);
    unsigned g = emulator::tid() % 32 / 4, t = emulator::tid() % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned short pair[2];
        for (unsigned j = 0; j < 2; j++) {
            const char* address;
            std::memcpy(&address, lanes[8 * i + 2 * t + j], 8);
            if ((uintptr_t)address % 16 != 0) emulator::fail("ldmatrix of a row that is not aligned to 16 bytes");
            std::memcpy(&pair[j], address + 2 * g, 2);
        }
        r[i] = (unsigned)pair[0] | (unsigned)pair[1] << 16;
    }
}

template <typename... P, size_t... I>
void unpack(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(emulator::argument<P>(arguments[I])...);
}
template <auto F>
struct Kernel;
template <typename... P, void (*F)(P...)>
struct Kernel<F> {
    static std::string kinds() { return {emulator::kind<P>()...}; }
    static void run(void* call) {
        unpack(F, static_cast<emulator::Call*>(call)->arguments, std::index_sequence_for<P...>());
    }
};
