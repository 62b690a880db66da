// Layer norm of one row per block, with the addition to the residual stream before it; statistics in f32, in two passes.

// out = (x − mean) / √(variance + eps) · weight + bias; each thread reads of x only what it wrote itself, if anything.
template <typename T>
INLINE void norm_row(GLOBAL const float* x, GLOBAL T* out, GLOBAL const float* weight, GLOBAL const float* bias, u32 size,
                     float eps, u32 has_bias, SHARED float* scratch, u32 tid) {
    float sum = 0.0f;
    for (u32 i = tid; i < size; i += THREADS) sum += x[i];
    float mean = block_sum(sum, scratch, tid) / (float)size;
    float squares = 0.0f;
    for (u32 i = tid; i < size; i += THREADS) squares += (x[i] - mean) * (x[i] - mean);
    float variance = block_sum(squares, scratch, tid) / (float)size;
    float scale = 1.0f / square_root(variance + eps);
    for (u32 i = tid; i < size; i += THREADS) {
        float y = (x[i] - mean) * scale * weight[i];
        narrow(has_bias != 0u ? y + bias[i] : y, out[i]);
    }
}

#define DEFINE_NORM(T, suffix)                                                                                            \
    KERNEL norm_##suffix(BUFFER(T, out, 0), BUFFER(const float, x, 1), BUFFER(const float, weight, 2),                    \
                         BUFFER(const float, bias, 3), SCALAR(u32, size, 4), SCALAR(float, eps, 5),                       \
                         SCALAR(u32, has_bias, 6) COORDINATES) {                                                          \
        SHARED_ARRAY(float, scratch, WARPS);                                                                              \
        Place at = PLACE;                                                                                                 \
        u64 row = (u64)at.x * size;                                                                                       \
        norm_row(x + row, out + row, weight, bias, size, eps, has_bias, scratch, at.tid);                              \
    }                                                                                                                     \
    /* sum = x + delta, out = norm(sum) */                                                                                \
    KERNEL add_norm_##suffix(BUFFER(float, sum, 0), BUFFER(T, out, 1), BUFFER(const float, x, 2),                         \
                             BUFFER(const T, delta, 3), BUFFER(const float, weight, 4), BUFFER(const float, bias, 5),     \
                             SCALAR(u32, size, 6), SCALAR(float, eps, 7), SCALAR(u32, has_bias, 8) COORDINATES) {         \
        SHARED_ARRAY(float, scratch, WARPS);                                                                              \
        Place at = PLACE;                                                                                                 \
        u64 row = (u64)at.x * size;                                                                                       \
        for (u32 i = at.tid; i < size; i += THREADS) sum[row + i] = x[row + i] + widen(delta[row + i]);                \
        norm_row(sum + row, out + row, weight, bias, size, eps, has_bias, scratch, at.tid);                            \
    }
