// What the kernels need of CUDA. Nothing is included, so that NVRTC needs no toolkit headers; the few instructions without
// a C++ spelling are set apart: the emulator, which defines ETTIN_EMULATOR, brings its own of those.

typedef unsigned int u32;
typedef unsigned long long u64;

#define INLINE __device__ __forceinline__
#define GLOBAL
#define SHARED
#ifndef ETTIN_EMULATOR
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#define KERNEL extern "C" __global__ void __launch_bounds__(128)
#endif
#define BUFFER(type, name, index) type* __restrict__ name
#define SCALAR(type, name, index) type name
#define COORDINATES
#define PLACE \
    Place { threadIdx.x, blockIdx.x, blockIdx.y, blockIdx.z }
#define BARRIER() __syncthreads()
#define SHUFFLE_XOR(value, mask) __shfl_xor_sync(0xffffffffu, value, mask)
#define UNROLL _Pragma("unroll")
#define HAVE_BF16 1

struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

INLINE float exponential(float x) { return expf(x); }
INLINE float error_function(float x) { return erff(x); }
INLINE float square_root(float x) { return sqrtf(x); }
INLINE float maximum(float a, float b) { return fmaxf(a, b); }
INLINE u32 bits_of(float x) { return __float_as_uint(x); }
INLINE float float_of(u32 x) { return __uint_as_float(x); }

#ifndef ETTIN_EMULATOR
// One instruction; exp2f adds what results below 2⁻¹²⁶ need.
INLINE float exponential2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Half precision by its bits.
INLINE float widen_half(unsigned short x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
INLINE unsigned short narrow_half(float x) {
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#endif

INLINE float widen(float x) { return x; }
INLINE void narrow(float x, float& y) { y = x; }
INLINE float widen(f16 x) { return widen_half(x.bits); }
INLINE void narrow(float x, f16& y) { y.bits = narrow_half(x); }
INLINE float widen(bf16 x) { return float_of((u32)x.bits << 16); }
INLINE void narrow(float x, bf16& y) {
    u32 bits = bits_of(x);
    // To nearest even; a NaN stays one.
    y.bits = x == x ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : 0x7fffu;
}
