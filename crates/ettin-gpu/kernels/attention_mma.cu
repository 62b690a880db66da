// Attention of packed sequences over a span on tensor cores: f16 and bf16, heads of 64, compute capability 8.0 or later.
// The contract, the tiles and the masks of attention.h; sums and the online softmax in f32.
//
// A block computes 64 queries of one head over keys in blocks of 64 that start at multiples of 64; a warp owns 16 queries.
// `mma.m16n8k16` wants its operands spread over the lanes of a warp: lane 4g + t holds
//   A [16 × 16]  rows g and g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9
//   B [16 × 8]   rows 2t, 2t + 1, 2t + 8, 2t + 9, column g
//   C [16 × 8]   rows g and g + 8, columns 2t, 2t + 1
// so the scores of a warp become the A operand of the second product without leaving their lanes.

#define HEAD 64u
#define BLOCK 64u
// Elements of a row of keys in shared memory: eight more than a head, so that eight rows fall on different banks.
#define ROW 72u

#ifndef ETTIN_EMULATOR
// d += a · b
INLINE void mma(float d[4], const u32 a[4], u32 b0, u32 b1, f16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
INLINE void mma(float d[4], const u32 a[4], u32 b0, u32 b1, bf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Two values as one word, the first in its low half.
INLINE u32 pack(float x, float y, f16) {
    u32 word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(y), "f"(x));
    return word;
}
INLINE u32 pack(float x, float y, bf16) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(y), "f"(x));
    return word;
}
// Four 8 × 8 matrices, transposed: lane 8i + j gives the address of row j of matrix i; lane 4g + t receives of each the
// elements of rows 2t and 2t + 1 in column g.
INLINE void load_transposed(u32 r[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(row))
                 : "memory");
}
#endif

// Copies keys first..first + BLOCK of one head, at `offset` of their rows, to shared memory; those outside low..high are
// zero, so that nothing stale can meet a weight of 0.
template <typename T>
INLINE void load_keys(T* to, const T* kv, u32 first, u32 low, u32 high, u32 base, u32 ring, u32 stride, u32 offset,
                      u32 tid) {
    for (u32 i = tid; i < BLOCK * HEAD / 8u; i += THREADS) {
        u32 key = first + i / 8u, d = i % 8u * 8u;
        uint4 values = make_uint4(0u, 0u, 0u, 0u);
        if (key >= low && key < high) values = *(const uint4*)(kv + key_row(base, key, ring) * stride + offset + d);
        *(uint4*)(to + i / 8u * ROW + d) = values;
    }
}

template <typename T>
INLINE void attend_mma(T* out, const T* q, const T* kv, const u32* tiles, u32 heads, u32 q_stride, u32 kv_stride,
                       u32 k_offset, u32 v_offset, u32 ring, u32 left, u32 right, float scale, T* keys, T* values, Place at) {
    u32 warp = at.tid / 32u, g = at.tid % 32u / 4u, t = at.tid % 4u;
    const u32* tile = tiles + (u64)at.x * TILE_WORDS;
    u32 row = tile[0], count = tile[1], position = tile[2], base = tile[3], len = tile[4];
    u32 column = at.y * HEAD;

    // This lane's queries are `mine` and `mine + 8` of the tile.
    u32 mine = warp * 16u + g;
    u32 a[4][4];
    UNROLL for (u32 step = 0u; step < 4u; step++)
        UNROLL for (u32 i = 0u; i < 4u; i++) {
            u32 query = mine + i % 2u * 8u, d = step * 16u + i / 2u * 8u + 2u * t;
            a[step][i] = query < count ? *(const u32*)(q + (u64)(row + query) * q_stride + column + d) : 0u;
        }

    // e^x as 2^(x · log2 e).
    float factor = scale * 1.44269504f;
    float top[2] = {LOWEST, LOWEST}, total[2] = {0.0f, 0.0f}, sums[8][4];
    UNROLL for (u32 n = 0u; n < 8u; n++)
        UNROLL for (u32 i = 0u; i < 4u; i++) sums[n][i] = 0.0f;

    u32 low = span_start(position, left), high = span_end(position + count - 1u, right, len);
    for (u32 first = low / BLOCK * BLOCK; first < high; first += BLOCK) {
        BARRIER();
        load_keys(keys, kv, first, low, high, base, ring, kv_stride, k_offset + column, at.tid);
        load_keys(values, kv, first, low, high, base, ring, kv_stride, v_offset + column, at.tid);
        BARRIER();

        float scores[8][4];
        UNROLL for (u32 n = 0u; n < 8u; n++) {
            UNROLL for (u32 i = 0u; i < 4u; i++) scores[n][i] = 0.0f;
            UNROLL for (u32 step = 0u; step < 4u; step++) {
                const T* k = keys + (n * 8u + g) * ROW + step * 16u + 2u * t;
                mma(scores[n], a[step], *(const u32*)k, *(const u32*)(k + 8u), T());
            }
        }

        UNROLL for (u32 n = 0u; n < 8u; n++)
            UNROLL for (u32 i = 0u; i < 4u; i++) scores[n][i] *= factor;
        // Every query sees all of a block if the last query sees its first key and the first query its last: most blocks.
        if (first + BLOCK > high || !sees(position + count - 1u, first, left, right) ||
            !sees(position, first + BLOCK - 1u, left, right)) {
            UNROLL for (u32 n = 0u; n < 8u; n++)
                UNROLL for (u32 i = 0u; i < 4u; i++) {
                    u32 key = first + n * 8u + 2u * t + i % 2u;
                    bool seen = key < high && sees(position + mine + i / 2u * 8u, key, left, right);
                    if (!seen) scores[n][i] = LOWEST;
                }
        }
        float next[2] = {top[0], top[1]};
        UNROLL for (u32 n = 0u; n < 8u; n++)
            UNROLL for (u32 i = 0u; i < 4u; i++) next[i / 2u] = maximum(next[i / 2u], scores[n][i]);
        UNROLL for (u32 half = 0u; half < 2u; half++) {
            next[half] = maximum(next[half], SHUFFLE_XOR(next[half], 1u));
            next[half] = maximum(next[half], SHUFFLE_XOR(next[half], 2u));
            float keep = exponential2(top[half] - next[half]);
            top[half] = next[half];
            total[half] *= keep;
            UNROLL for (u32 n = 0u; n < 8u; n++) {
                sums[n][2u * half] *= keep;
                sums[n][2u * half + 1u] *= keep;
            }
        }
        // The lanes of a row are summed up once, at the end.
        UNROLL for (u32 n = 0u; n < 8u; n++)
            UNROLL for (u32 i = 0u; i < 4u; i++) {
                bool seen = scores[n][i] > LOWEST;
                scores[n][i] = seen ? exponential2(scores[n][i] - top[i / 2u]) : 0.0f;
                total[i / 2u] += scores[n][i];
            }

        UNROLL for (u32 step = 0u; step < 4u; step++) {
            u32 weights[4];
            UNROLL for (u32 i = 0u; i < 4u; i++) {
                const float* from = scores[2u * step + i / 2u] + i % 2u * 2u;
                weights[i] = pack(from[0], from[1], T());
            }
            u32 lane = at.tid % 32u;
            UNROLL for (u32 n = 0u; n < 8u; n += 2u) {
                // Matrices 0 and 1 are the keys' halves at dimensions 8n.., 2 and 3 those at 8(n + 1)...
                u32 b[4];
                load_transposed(b, values + (step * 16u + lane % 16u) * ROW + (n + lane / 16u) * 8u);
                mma(sums[n], weights, b[0], b[1], T());
                mma(sums[n + 1u], weights, b[2], b[3], T());
            }
        }
    }

    UNROLL for (u32 half = 0u; half < 2u; half++) {
        total[half] += SHUFFLE_XOR(total[half], 1u);
        total[half] += SHUFFLE_XOR(total[half], 2u);
    }
    UNROLL for (u32 half = 0u; half < 2u; half++) {
        u32 query = mine + half * 8u;
        if (query >= count) continue;
        float share = 1.0f / total[half];
        T* to = out + (u64)(row + query) * heads * HEAD + column + 2u * t;
        UNROLL for (u32 n = 0u; n < 8u; n++)
            *(u32*)(to + n * 8u) = pack(sums[n][2u * half] * share, sums[n][2u * half + 1u] * share, T());
    }
}

#define DEFINE_MMA(T, suffix)                                                                                             \
    KERNEL attention_mma_##suffix(BUFFER(T, out, 0), BUFFER(const T, q, 1), BUFFER(const T, kv, 2),                       \
                                  BUFFER(const u32, tiles, 3), SCALAR(u32, heads, 4), SCALAR(u32, head_dim, 5),           \
                                  SCALAR(u32, q_stride, 6), SCALAR(u32, kv_stride, 7), SCALAR(u32, k_offset, 8),          \
                                  SCALAR(u32, v_offset, 9), SCALAR(u32, ring, 10), SCALAR(u32, left, 11),                 \
                                  SCALAR(u32, right, 12), SCALAR(float, scale, 13) COORDINATES) {                         \
        SHARED_ARRAY(T, keys, BLOCK * ROW);                                                                               \
        SHARED_ARRAY(T, values, BLOCK * ROW);                                                                             \
        attend_mma<T>(out, q, kv, tiles, heads, q_stride, kv_stride, k_offset, v_offset, ring, left, right, scale, keys,  \
                      values, PLACE);                                                                                     \
    }

DEFINE_MMA(f16, f16)
DEFINE_MMA(bf16, bf16)
