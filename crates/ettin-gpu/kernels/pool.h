// Runs of rows brought together, one vector each.
//
// A block does 32 columns of one run: warp w takes its rows w, w + 4, …, and the four parts are joined in order. A run is five
// numbers: first row, rows, kind, weight of the first row, bits of the divisor.

#define RUN_WORDS 5u

// Kinds: 0: the sum, 1: the sum with weights that count up, 2: the greatest.
template <typename T>
INLINE void pool_run(GLOBAL T* out, GLOBAL const float* x, GLOBAL const u32* runs, u32 size, SHARED float* parts, Place at) {
    GLOBAL const u32* run = runs + (u64)at.x * RUN_WORDS;
    u32 first = run[0], count = run[1], kind = run[2], weight = run[3];
    u32 warp = at.tid / 32u, lane = at.tid % 32u, column = at.y * 32u + lane;
    float part = kind == 2u ? LOWEST : 0.0f;
    if (column < size) {
        for (u32 i = warp; i < count; i += WARPS) {
            float value = x[((u64)first + i) * size + column];
            if (kind == 2u) {
                part = maximum(part, value);
            } else {
                part += kind == 1u ? (float)(weight + i) * value : value;
            }
        }
    }
    parts[at.tid] = part;
    BARRIER();
    if (warp != 0u || column >= size) return;
    float a = parts[lane], b = parts[32u + lane], c = parts[64u + lane], d = parts[96u + lane];
    float all = kind == 2u ? maximum(maximum(a, b), maximum(c, d)) : (a + b) + (c + d);
    narrow(all / float_of(run[4]), out[(u64)at.x * size + column]);
}

#define DEFINE_POOL(T, suffix)                                                                                            \
    KERNEL pool_##suffix(BUFFER(T, out, 0), BUFFER(const float, x, 1), BUFFER(const u32, runs, 2), SCALAR(u32, size, 3)  \
                             COORDINATES) {                                                                               \
        SHARED_ARRAY(float, parts, THREADS);                                                                              \
        pool_run<T>(out, x, runs, size, parts, PLACE);                                                                    \
    }
