// RoPE, GeGLU, and the copy of keys and values into a cache. All arithmetic in f32.

// Rotates `heads` heads from column 0 of one row of [q | k | v] by the angles of its position, in place, in the
// half-split layout; `cos` and `sin` are [positions, head_dim / 2].
template <typename T>
INLINE void rope_row(GLOBAL T* row, GLOBAL const float* cos, GLOBAL const float* sin, u32 heads, u32 half_dim, u32 tid) {
    for (u32 i = tid; i < heads * half_dim; i += THREADS) {
        u32 angle = i % half_dim;
        u32 first = (i / half_dim) * 2u * half_dim + angle, second = first + half_dim;
        float a = widen(row[first]), b = widen(row[second]);
        narrow(a * cos[angle] - b * sin[angle], row[first]);
        narrow(b * cos[angle] + a * sin[angle], row[second]);
    }
}

// 0: exact GELU, 1: its tanh form, 2: SiLU, 3: ReLU.
INLINE float activation(float x, u32 kind) {
    if (kind == 0u) return 0.5f * x * (1.0f + error_function(0.70710678f * x));
    if (kind == 1u) return x / (1.0f + exponential(-1.5957691f * (x + 0.044715f * x * x * x)));
    if (kind == 2u) return x / (1.0f + exponential(-x));
    return x <= 0.0f ? 0.0f : x; // NaN stays
}

#define DEFINE_ELEMENTWISE(T, suffix)                                                                                     \
    KERNEL rope_##suffix(BUFFER(T, qkv, 0), BUFFER(const u32, positions, 1), BUFFER(const float, cos, 2),                 \
                         BUFFER(const float, sin, 3), SCALAR(u32, stride, 4), SCALAR(u32, heads, 5),                      \
                         SCALAR(u32, half_dim, 6) COORDINATES) {                                                          \
        Place at = PLACE;                                                                                                 \
        u64 angles = (u64)positions[at.x] * half_dim;                                                                     \
        rope_row(qkv + (u64)at.x * stride, cos + angles, sin + angles, heads, half_dim, at.tid);                       \
    }                                                                                                                     \
    /* out [rows, size] = activation(a) * b, where each row of x is [a | b]; a block does 512 columns of a row */         \
    KERNEL geglu_##suffix(BUFFER(T, out, 0), BUFFER(const T, x, 1), SCALAR(u32, size, 2), SCALAR(u32, kind, 3)            \
                              COORDINATES) {                                                                              \
        Place at = PLACE;                                                                                                 \
        GLOBAL const T* row = x + (u64)at.x * 2u * size;                                                                  \
        for (u32 j = 0u; j < 4u; j++) {                                                                                   \
            u32 i = at.y * 4u * THREADS + j * THREADS + at.tid;                                                        \
            if (i < size) narrow(activation(widen(row[i]), kind) * widen(row[size + i]), out[(u64)at.x * size + i]);      \
        }                                                                                                                 \
    }                                                                                                                     \
    /* kv [capacity, k | v]: row `first + i` of [q | k | v] becomes the key and value of position `start + i` */          \
    KERNEL append_##suffix(BUFFER(T, kv, 0), BUFFER(const T, qkv, 1), SCALAR(u32, size, 2), SCALAR(u32, first, 3),        \
                           SCALAR(u32, start, 4), SCALAR(u32, ring, 5) COORDINATES) {                                     \
        Place at = PLACE;                                                                                                 \
        GLOBAL T* to = kv + key_row(0u, start + at.x, ring) * 2u * size;                                                  \
        GLOBAL const T* from = qkv + ((u64)first + at.x) * 3u * size + size;                                              \
        for (u32 i = at.tid; i < 2u * size; i += THREADS) to[i] = from[i];                                             \
    }
