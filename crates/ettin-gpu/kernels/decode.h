// Attention of one or a few new rows over a cache, its keys split among blocks: decoding is limited by how fast keys and
// values are read, and one block per head would leave most of the device idle.
//
// A split is 256 keys that start at a multiple of 256 of their positions, so the order of every sum depends on positions
// only. `attend_split` leaves the greatest score, the sum of weights and the weighted values of a split in
// `partial` [rows, heads, splits, 2 + head_dim]; `merge_splits` joins them in order.

#define SPLIT 256u

template <typename T>
INLINE void attend_split(GLOBAL float* partial, GLOBAL const T* q, GLOBAL const T* kv, u32 heads, u32 head_dim,
                         u32 q_stride, u32 first_row, u32 start, u32 first_split, u32 splits, u32 ring, u32 left, float scale,
                         SHARED float* query, SHARED float* scores, SHARED float* sums, SHARED float* scratch, Place at) {
    u32 split = at.x, head = at.y, row = at.z;
    u32 warp = at.tid / 32u, lane = at.tid % 32u;
    u32 size = heads * head_dim, column = head * head_dim;
    u32 position = start + row;
    u32 from = (first_split + split) * SPLIT;
    u32 low = span_start(position, left), high = position + 1u;
    low = low > from ? low : from;
    high = high < from + SPLIT ? high : from + SPLIT;

    for (u32 d = at.tid; d < 128u; d += THREADS)
        query[d] = d < head_dim ? widen(q[(u64)(first_row + row) * q_stride + column + d]) : 0.0f;
    BARRIER();

    // Eight lanes to a key. Every lane of a warp makes every step, as the shuffles need all of them.
    float top = LOWEST;
    for (u32 i = 0u; i < SPLIT; i += THREADS / 8u) {
        u32 key = from + i + at.tid / 8u;
        bool there = key >= low && key < high;
        float score = 0.0f;
        if (there) {
            GLOBAL const T* k = kv + key_row(0u, key, ring) * 2u * size + column;
            for (u32 d = lane % 8u; d < head_dim; d += 8u) score += query[d] * widen(k[d]);
        }
        for (u32 mask = 4u; mask != 0u; mask /= 2u) score += SHUFFLE_XOR(score, mask);
        score = there ? score * scale : LOWEST;
        if (lane % 8u == 0u) scores[key - from] = score;
        top = maximum(top, score);
    }
    top = block_max(top, scratch, at.tid);

    float total = 0.0f;
    for (u32 i = at.tid; i < SPLIT; i += THREADS) {
        bool there = from + i >= low && from + i < high;
        float weight = there ? exponential(scores[i] - top) : 0.0f;
        scores[i] = weight;
        total += weight;
    }
    total = block_sum(total, scratch, at.tid);

    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (u32 i = warp; i < SPLIT; i += WARPS) {
        if (from + i >= low && from + i < high) {
            GLOBAL const T* v = kv + key_row(0u, from + i, ring) * 2u * size + size + column;
            UNROLL for (u32 j = 0u; j < 4u; j++)
                if (lane + 32u * j < head_dim) sum[j] += scores[i] * widen(v[lane + 32u * j]);
        }
    }
    UNROLL for (u32 j = 0u; j < 4u; j++) sums[warp * 128u + lane + 32u * j] = sum[j];
    BARRIER();
    GLOBAL float* mine = partial + ((u64)(row * heads + head) * splits + split) * (2u + head_dim);
    if (at.tid == 0u) {
        mine[0] = top;
        mine[1] = total;
    }
    u32 d = at.tid;
    if (d < head_dim) mine[2u + d] = (sums[d] + sums[128u + d]) + (sums[256u + d] + sums[384u + d]);
}

template <typename T>
INLINE void merge(GLOBAL T* out, GLOBAL const float* partial, u32 heads, u32 head_dim, u32 first_row, u32 splits,
                  Place at) {
    u32 head = at.x, row = at.y, d = at.tid, width = 2u + head_dim;
    GLOBAL const float* mine = partial + (u64)(row * heads + head) * splits * width;
    if (d >= head_dim) return;
    float top = LOWEST;
    for (u32 i = 0u; i < splits; i++) top = maximum(top, mine[i * width]);
    float total = 0.0f, sum = 0.0f;
    for (u32 i = 0u; i < splits; i++) {
        float weight = exponential(mine[i * width] - top);
        total += weight * mine[i * width + 1u];
        sum += weight * mine[i * width + 2u + d];
    }
    narrow(sum / total, out[((u64)(first_row + row) * heads + head) * head_dim + d]);
}

#define DEFINE_DECODE(T, suffix)                                                                                          \
    KERNEL attend_split_##suffix(BUFFER(float, partial, 0), BUFFER(const T, q, 1), BUFFER(const T, kv, 2),                \
                                 SCALAR(u32, heads, 3), SCALAR(u32, head_dim, 4), SCALAR(u32, q_stride, 5),               \
                                 SCALAR(u32, first_row, 6), SCALAR(u32, start, 7), SCALAR(u32, first_split, 8),           \
                                 SCALAR(u32, splits, 9), SCALAR(u32, ring, 10), SCALAR(u32, left, 11),                    \
                                 SCALAR(float, scale, 12) COORDINATES) {                                                  \
        SHARED_ARRAY(float, query, 128);                                                                                  \
        SHARED_ARRAY(float, scores, SPLIT);                                                                               \
        SHARED_ARRAY(float, sums, 512);                                                                                   \
        SHARED_ARRAY(float, scratch, WARPS);                                                                              \
        attend_split<T>(partial, q, kv, heads, head_dim, q_stride, first_row, start, first_split, splits, ring, left,     \
                        scale, query, scores, sums, scratch, PLACE);                                                      \
    }                                                                                                                     \
    KERNEL merge_splits_##suffix(BUFFER(T, out, 0), BUFFER(const float, partial, 1), SCALAR(u32, heads, 2),               \
                                 SCALAR(u32, head_dim, 3), SCALAR(u32, first_row, 4), SCALAR(u32, splits, 5) COORDINATES) { \
        merge<T>(out, partial, heads, head_dim, first_row, splits, PLACE);                                                \
    }
