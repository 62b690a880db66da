// Attention of packed sequences over a span, without tensor cores: every number format, heads of up to 128.
//
// A block computes one tile of queries for one head, over keys in blocks of 32 that start at multiples of 32 of their
// positions, with an online softmax in f32. Nothing is padded: tiles end where their sequence ends, keys outside the span
// of the whole tile are not visited, and a key that a query does not see gets no weight, whatever it holds.
//
// A tile is five numbers: row of its first query, queries, position of the first query, row of the keys' position 0,
// positions that hold keys.

#define TILE_WORDS 5u
#define KEYS 32u

// T of memory, heads of at most D, Q queries in a tile. Warp w owns queries w, w + 4, …; a lane is one key of the block
// in the scores, and the dimensions lane, lane + 32, … in the output.
template <typename T, u32 D, u32 Q>
INLINE void attend(GLOBAL T* out, GLOBAL const T* q, GLOBAL const T* kv, GLOBAL const u32* tiles, u32 heads, u32 head_dim,
                   u32 q_stride, u32 kv_stride, u32 k_offset, u32 v_offset, u32 ring, u32 left, u32 right, float scale,
                   SHARED float* queries, SHARED float* keys, SHARED float* weights, Place at) {
    const u32 rows_per_warp = Q / WARPS, dims_per_lane = D / 32u;
    u32 warp = at.tid / 32u, lane = at.tid % 32u;
    GLOBAL const u32* tile = tiles + (u64)at.x * TILE_WORDS;
    u32 row = tile[0], count = tile[1], position = tile[2], base = tile[3], len = tile[4];
    u32 column = at.y * head_dim;

    for (u32 i = at.tid; i < Q * D; i += THREADS) {
        u32 query = i / D, d = i % D;
        bool there = query < count && d < head_dim;
        queries[i] = there ? widen(q[(u64)(row + query) * q_stride + column + d]) : 0.0f;
    }

    float top[Q / WARPS], total[Q / WARPS], sums[Q / WARPS][D / 32u];
    UNROLL for (u32 i = 0u; i < rows_per_warp; i++) {
        top[i] = LOWEST;
        total[i] = 0.0f;
        UNROLL for (u32 j = 0u; j < dims_per_lane; j++) sums[i][j] = 0.0f;
    }

    u32 low = span_start(position, left), high = span_end(position + count - 1u, right, len);
    for (u32 first = low / KEYS * KEYS; first < high; first += KEYS) {
        BARRIER();
        for (u32 i = at.tid; i < KEYS * D; i += THREADS) {
            u32 key = first + i / D, d = i % D;
            bool there = key >= low && key < high && d < head_dim;
            keys[i / D * (D + 1u) + d] =
                there ? widen(kv[key_row(base, key, ring) * kv_stride + k_offset + column + d]) : 0.0f;
        }
        BARRIER();
        UNROLL for (u32 i = 0u; i < rows_per_warp; i++) {
            u32 query = warp + WARPS * i, key = first + lane;
            float score = 0.0f;
            for (u32 d = 0u; d < D; d++) score += queries[query * D + d] * keys[lane * (D + 1u) + d];
            bool seen = key < high && sees(position + query, key, left, right);
            score = seen ? score * scale : LOWEST;
            float next = maximum(top[i], warp_max(score));
            float weight = seen ? exponential(score - next) : 0.0f;
            float keep = exponential(top[i] - next);
            top[i] = next;
            total[i] = total[i] * keep + warp_sum(weight);
            UNROLL for (u32 j = 0u; j < dims_per_lane; j++) sums[i][j] *= keep;
            weights[query * (KEYS + 1u) + lane] = weight;
        }
        BARRIER();
        for (u32 i = at.tid; i < KEYS * D; i += THREADS) {
            u32 key = first + i / D, d = i % D;
            bool there = key >= low && key < high && d < head_dim;
            keys[i / D * (D + 1u) + d] =
                there ? widen(kv[key_row(base, key, ring) * kv_stride + v_offset + column + d]) : 0.0f;
        }
        BARRIER();
        for (u32 key = 0u; key < KEYS; key++) {
            UNROLL for (u32 i = 0u; i < rows_per_warp; i++) {
                float weight = weights[(warp + WARPS * i) * (KEYS + 1u) + key];
                UNROLL for (u32 j = 0u; j < dims_per_lane; j++) sums[i][j] += weight * keys[key * (D + 1u) + lane + 32u * j];
            }
        }
    }

    UNROLL for (u32 i = 0u; i < rows_per_warp; i++) {
        u32 query = warp + WARPS * i;
        UNROLL for (u32 j = 0u; j < dims_per_lane; j++) {
            u32 d = lane + 32u * j;
            if (query < count && d < head_dim)
                narrow(sums[i][j] / total[i], out[(u64)(row + query) * heads * head_dim + column + d]);
        }
    }
}

#define DEFINE_ATTENTION(T, suffix, D, Q)                                                                                 \
    KERNEL attention_##D##_##suffix(BUFFER(T, out, 0), BUFFER(const T, q, 1), BUFFER(const T, kv, 2),                     \
                                    BUFFER(const u32, tiles, 3), SCALAR(u32, heads, 4), SCALAR(u32, head_dim, 5),         \
                                    SCALAR(u32, q_stride, 6), SCALAR(u32, kv_stride, 7), SCALAR(u32, k_offset, 8),        \
                                    SCALAR(u32, v_offset, 9), SCALAR(u32, ring, 10), SCALAR(u32, left, 11),               \
                                    SCALAR(u32, right, 12), SCALAR(float, scale, 13) COORDINATES) {                       \
        SHARED_ARRAY(float, queries, Q * D);                                                                              \
        SHARED_ARRAY(float, keys, KEYS * (D + 1));                                                                        \
        SHARED_ARRAY(float, weights, Q * (KEYS + 1));                                                                     \
        attend<T, D, Q>(out, q, kv, tiles, heads, head_dim, q_stride, kv_stride, k_offset, v_offset, ring, left, right,   \
                        scale, queries, keys, weights, PLACE);                                                            \
    }
