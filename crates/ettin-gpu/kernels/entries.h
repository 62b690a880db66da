// The kernels by name, in every number format. Tiles of 32 queries for heads of up to 64, of 16 up to 128: what fits the
// 32 KiB that every device gives a block.

#define DEFINE_ALL(T, suffix)          \
    DEFINE_NORM(T, suffix)             \
    DEFINE_ELEMENTWISE(T, suffix)      \
    DEFINE_ATTENTION(T, suffix, 64, 32)  \
    DEFINE_ATTENTION(T, suffix, 128, 16) \
    DEFINE_DECODE(T, suffix)         \
    DEFINE_POOL(T, suffix)

DEFINE_ALL(float, f32)
DEFINE_ALL(f16, f16)
#ifdef HAVE_BF16
DEFINE_ALL(bf16, bf16)
#endif
