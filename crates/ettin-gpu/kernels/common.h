// Shared by the kernels, which are written once for CUDA and Metal: a prelude gives the words in capitals.
//
// A block has 128 threads, four warps of 32. GLOBAL is device memory, SHARED that of a block. Rows are indexed in 64 bits.

#define THREADS 128u
#define WARPS 4u
// An end of a span without bound.
#define UNBOUNDED 0xffffffffu
// Below every score; not −∞, whose difference with itself is NaN (and which fast arithmetic may assume away).
#define LOWEST (-3.0e38f)

// Which thread of which block this is.
struct Place {
    u32 tid, x, y, z;
};

// Whether the query at position q sees the key at position k.
INLINE bool sees(u32 q, u32 k, u32 left, u32 right) { return k <= q ? q - k <= left : k - q <= right; }

// First position that the query at q sees.
INLINE u32 span_start(u32 q, u32 left) { return q > left ? q - left : 0u; }

// One past the last of `len` positions that the query at q sees.
INLINE u32 span_end(u32 q, u32 right, u32 len) {
    return right == UNBOUNDED || q + right >= len ? len : q + right + 1u;
}

// Row of the key at a position: a ring of `ring` rows, or every position in order.
INLINE u64 key_row(u32 base, u32 position, u32 ring) { return (u64)base + (ring != 0u ? position % ring : position); }

INLINE float warp_sum(float x) {
    for (u32 mask = 16u; mask != 0u; mask /= 2u) x += SHUFFLE_XOR(x, mask);
    return x;
}

INLINE float warp_max(float x) {
    for (u32 mask = 16u; mask != 0u; mask /= 2u) x = maximum(x, SHUFFLE_XOR(x, mask));
    return x;
}

// Sum over the block, in one fixed order; `scratch` holds WARPS values.
INLINE float block_sum(float x, SHARED float* scratch, u32 tid) {
    x = warp_sum(x);
    BARRIER();
    if (tid % 32u == 0u) scratch[tid / 32u] = x;
    BARRIER();
    return (scratch[0] + scratch[1]) + (scratch[2] + scratch[3]);
}

INLINE float block_max(float x, SHARED float* scratch, u32 tid) {
    x = warp_max(x);
    BARRIER();
    if (tid % 32u == 0u) scratch[tid / 32u] = x;
    BARRIER();
    return maximum(maximum(scratch[0], scratch[1]), maximum(scratch[2], scratch[3]));
}
