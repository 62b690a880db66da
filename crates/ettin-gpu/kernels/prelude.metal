// What the kernels need of Metal.

#include <metal_stdlib>
using namespace metal;

typedef uint u32;
typedef ulong u64;
typedef half f16;

#define INLINE inline
#define GLOBAL device
#define SHARED threadgroup
#ifndef ETTIN_EMULATOR
#define SHARED_ARRAY(type, name, count) threadgroup type name[count]
#define KERNEL kernel void
#endif
#define BUFFER(type, name, index) device type* name [[buffer(index)]]
#define SCALAR(type, name, index) constant type& name [[buffer(index)]]
#define COORDINATES , uint tid_ [[thread_index_in_threadgroup]], uint3 block_ [[threadgroup_position_in_grid]]
#define PLACE \
    Place { tid_, block_.x, block_.y, block_.z }
#define BARRIER() threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device)
#define SHUFFLE_XOR(value, mask) simd_shuffle_xor(value, (ushort)(mask))
#define UNROLL _Pragma("clang loop unroll(full)")

INLINE float exponential(float x) { return precise::exp(x); }
INLINE float exponential2(float x) { return precise::exp2(x); }
INLINE float square_root(float x) { return precise::sqrt(x); }
INLINE float maximum(float a, float b) { return max(a, b); }
INLINE u32 bits_of(float x) { return as_type<uint>(x); }
INLINE float float_of(u32 x) { return as_type<float>(x); }

// Metal has no erf. Up to 1, x·R(x²); above, 1 − e^(−x²)·t·Q(t) with t = 1 / (1 + 0.3·√2·x): the fits of the CPU
// kernels for Φ, of which erf(x) = 2Φ(√2·x) − 1.
INLINE float error_function(float x) {
    float z = 1.4142135f * x;
    float a = min(fabs(z), 16.0f);
    if (a < 1.0f) {
        float s = z * z;
        float r = -7.462895e-6f;
        r = fma(r, s, 1.1295217e-4f);
        r = fma(r, s, -1.185784e-3f);
        r = fma(r, s, 9.973078e-3f);
        r = fma(r, s, -6.6490315e-2f);
        r = fma(r, s, 3.989423e-1f);
        return 2.0f * z * r;
    }
    float t = 1.0f / fma(0.3f, a, 1.0f);
    float q = -2.0624883e-2f;
    q = fma(q, t, 1.1244357e-1f);
    q = fma(q, t, -2.28233e-1f);
    q = fma(q, t, 1.9181146e-1f);
    q = fma(q, t, -7.944686e-2f);
    q = fma(q, t, 9.616996e-2f);
    q = fma(q, t, 7.838489e-2f);
    q = fma(q, t, 1.102365e-1f);
    q = fma(q, t, 1.1957168e-1f);
    q = fma(q, t, 1.196867e-1f);
    float tail = 2.0f * t * q * precise::exp(-0.5f * a * a);
    return x < 0.0f ? tail - 1.0f : 1.0f - tail;
}

INLINE float widen(float x) { return x; }
INLINE void narrow(float x, device float& y) { y = x; }
INLINE float widen(half x) { return (float)x; }
INLINE void narrow(float x, device half& y) { y = (half)x; }
#if defined(__HAVE_BFLOAT__)
#define HAVE_BF16 1
typedef bfloat bf16;
INLINE float widen(bfloat x) { return (float)x; }
INLINE void narrow(float x, device bfloat& y) { y = (bfloat)x; }
#endif
