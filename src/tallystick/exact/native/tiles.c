/* tile_loops.h for each instruction set, and the choice between them. */
#define _DEFAULT_SOURCE
#include "tiles.h"

#include <string.h>

#include "simd.h"

#define TS_PASTE(a, b) a##_##b
#define TS_JOIN(a, b) TS_PASTE(a, b)
#define TS_NAME(x) TS_JOIN(x, TS_LEVEL)

/* Portable: the compiler's own vectors of four. */
typedef uint32_t Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t SignedFour __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Unaligned __attribute__((aligned(1), may_alias));

static inline Four four_spread(const void *p) {
    const uint32_t x = (uint32_t) * (const Unaligned *)p;
    return (Four){x, x, x, x};
}

static inline Four four_dot(Four sums, Four a, Four b) {
    const Four low = (Four)((SignedFour)(a << 16) >> 16) * (Four)((SignedFour)(b << 16) >> 16);
    return sums + low + (Four)((SignedFour)a >> 16) * (Four)((SignedFour)b >> 16);
}

static inline void transpose_scalar(const float *from, int64_t stride, float *to) {
    for (int o = 0; o < 16; o++)
        for (int k = 0; k < 16; k++) to[k * 16 + o] = from[o * stride + k];
}

#define TS_LEVEL portable
#define TS_TARGET
#define TS_VEC Four
#define TS_WIDTH 4
#define TS_ROWS 4
#define TS_FAST_ROWS 4
#define TS_VECS 2
#define TS_ZERO() ((Four){0, 0, 0, 0})
#define TS_LOAD(p) (*(const Four *)(p))
#define TS_STORE(p, x) (*(Four *)(p) = (x))
#define TS_SPREAD(p) four_spread(p)
#define TS_DOT(sums, a, b) four_dot(sums, a, b)
#define TS_ADD(a, b) ((a) + (b))
#define TS_HIGH(x) ((Four)((SignedFour)(x) >> 16))
#define TS_LOW(x) ((x)&0xFFFF)
#define TS_TRANSPOSE(from, stride, to) transpose_scalar(from, stride, to)
#include "tile_loops.h"
#undef TS_LEVEL
#undef TS_TARGET
#undef TS_VEC
#undef TS_WIDTH
#undef TS_ROWS
#undef TS_FAST_ROWS
#undef TS_VECS
#undef TS_ZERO
#undef TS_LOAD
#undef TS_STORE
#undef TS_SPREAD
#undef TS_DOT
#undef TS_ADD
#undef TS_HIGH
#undef TS_LOW
#undef TS_TRANSPOSE

#if TS_X86
#include "tiles_x86.h"
#endif
#if TS_AMX
#include "tiles_amx.h"
#endif

enum { PORTABLE, DOUBLES, AVX2, AVX512, VNNI, AMX_UNIT };

static int limit = AMX_UNIT;

static int level(void) {
    int found = PORTABLE;
#if TS_X86
    if (ts_simd_level() >= 1 && __builtin_cpu_supports("fma")) found = AVX2;
    if (found == AVX2 && ts_simd_level() >= 2) found = __builtin_cpu_supports("avx512vnni") ? VNNI : AVX512;
#endif
#if TS_AMX
    if (found == VNNI && limit >= AMX_UNIT && amx_usable()) found = AMX_UNIT;
#endif
    return found < limit ? found : limit;
}

int ts_limit_level(int value) {
    limit = value;
    return level();
}

const TileLoops *ts_tile_loops(int fast) {
#if TS_X86
    switch (level()) {
        case AMX_UNIT:
        case VNNI: return &loops_vnni;
        case AVX512: return fast ? &loops_avx512 : &doubles_avx512; /* three int16 products take longer than one */
        case AVX2: return &loops_avx2;
        case DOUBLES: return ts_simd_level() == 2 ? &doubles_avx512 : &doubles_avx2;
    }
#endif
    (void)fast;
    return &loops_portable;
}

const TileLoops *ts_matrix_loops(int fast) {
#if TS_AMX
    if (level() == AMX_UNIT) return &loops_amx;
#endif
    return ts_tile_loops(fast);
}

static float power_of_two(int exponent) {
    const uint32_t pattern = (uint32_t)(exponent + 127) << 23;
    float value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

int ts_units(const int32_t *peak, int64_t count, int bits, double *unit, float *scale_high, float *scale_low) {
    int bad = 0;
    for (int64_t i = 0; i < count; i++) {
        bad |= peak[i] >= 0x7F800000;
        const int exponent = (peak[i] >> 23) - 126 - bits; /* peak < 2^(exponent + bits) */
        const int half = -exponent >> 1;
        const uint64_t pattern = (uint64_t)(exponent + 1023) << 52;
        memcpy(unit + i, &pattern, sizeof pattern);
        scale_high[i] = power_of_two(half);
        scale_low[i] = power_of_two(-exponent - half);
    }
    return bad;
}
