/* The loops of tiles.h for one instruction set. Before it is included: TS_NAME(x), TS_TARGET, the vector type TS_VEC of
 * TS_WIDTH int32 lanes with TS_LOAD, TS_STORE, TS_SPREAD (one int32 to all lanes), TS_DOT(sums, a, b) that multiplies
 * 16-bit halves and adds both products, TS_ZERO, TS_ADD, TS_HIGH (>> 16, with sign), TS_LOW (& 0xFFFF); TS_ROWS and
 * TS_VECS, the size of the block that fits in registers; and TS_TRANSPOSE(from, stride, to). */

#define TS_INLINE static inline __attribute__((always_inline)) TS_TARGET

typedef float TS_NAME(Floats) __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t TS_NAME(Ints) __attribute__((vector_size(64), aligned(4), may_alias));

/* rows x vecs sums of one plane. `table_a` and `table_b` say how the operand is laid out (TileOperands). One function
 * with plain loops of constant length, since only so do compilers keep the sums in registers. */
TS_INLINE void TS_NAME(run)(const int rows, const int vecs, const int fast, const int table_a, const int table_b,
                            const TileOperands *o, int plane, int row0, int lane0, Tile *tile) {
    TS_VEC sums[TS_ROWS][TS_VECS], high[TS_ROWS][TS_VECS];
    const char *from[TS_ROWS];
    const int32_t *a = o->a[plane] + row0, *b = o->b[plane] + lane0;
    const int most = fast ? WIDEN_STEPS : BLOCK_STEPS;
    for (int r = 0; r < rows; r++) {
        if (table_a) from[r] = (const char *)o->a[plane] + o->a_rows[row0 + r];
        for (int v = 0; v < vecs; v++) sums[r][v] = high[r][v] = TS_ZERO();
    }
    for (int start = 0; start < o->steps; start += most) {
        const int end = o->steps - start < most ? o->steps : start + most;
        for (int t = start; t < end; t++) {
            const int32_t *bt = b + (table_b ? o->b_steps[t] : (int64_t)t * TILE_LANES);
            TS_VEC bv[TS_VECS];
            for (int v = 0; v < vecs; v++) bv[v] = TS_LOAD(bt + v * TS_WIDTH);
            for (int r = 0; r < rows; r++) {
                const TS_VEC av = TS_SPREAD(table_a ? (const void *)(from[r] + (int64_t)t * 4)
                                                    : (const void *)(a + (int64_t)t * TILE_ROWS + r));
                for (int v = 0; v < vecs; v++) sums[r][v] = TS_DOT(sums[r][v], av, bv[v]);
            }
        }
        if (fast)
            for (int r = 0; r < rows; r++)
                for (int v = 0; v < vecs; v++) {
                    high[r][v] = TS_ADD(high[r][v], TS_HIGH(sums[r][v]));
                    sums[r][v] = TS_LOW(sums[r][v]);
                }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++) {
            const int lane = lane0 + v * TS_WIDTH;
            if (fast) TS_STORE(&tile->piece[0][row0 + r][lane], high[r][v]);
            TS_STORE(&tile->piece[fast ? 1 : plane][row0 + r][lane], sums[r][v]);
        }
}

/* One function for each size and layout, so that the sums stay in registers. */
#define TS_RUN(rows, vecs, fast, ta, tb)                                                                             \
    TS_TARGET static __attribute__((noinline)) void TS_NAME(run_##rows##_##vecs##_##fast##ta##tb)(                   \
        const TileOperands *o, int plane, int row0, int lane0, Tile *tile) {                                         \
        TS_NAME(run)(rows, vecs, fast, ta, tb, o, plane, row0, lane0, tile);                                         \
    }
#define TS_RUNS(rows, vecs)                                                                                          \
    TS_RUN(rows, vecs, 0, 0, 0)                                                                                      \
    TS_RUN(rows, vecs, 0, 0, 1)                                                                                      \
    TS_RUN(rows, vecs, 0, 1, 0)                                                                                      \
    TS_RUN(rows, vecs, 1, 0, 0)                                                                                      \
    TS_RUN(rows, vecs, 1, 0, 1)                                                                                      \
    TS_RUN(rows, vecs, 1, 1, 0)
#define TS_RUN_NAMES(rows, vecs)                                                                                     \
    {                                                                                                                \
        TS_NAME(run_##rows##_##vecs##_000), TS_NAME(run_##rows##_##vecs##_001), TS_NAME(run_##rows##_##vecs##_010),  \
            TS_NAME(run_##rows##_##vecs##_100), TS_NAME(run_##rows##_##vecs##_101),                                  \
            TS_NAME(run_##rows##_##vecs##_110)                                                                       \
    }
typedef void (*TS_NAME(Run))(const TileOperands *, int, int, int, Tile *);

#if TS_ROWS == 12
TS_RUNS(1, 1)
TS_RUNS(2, 1)
TS_RUNS(4, 1)
TS_RUNS(6, 1)
TS_RUNS(8, 1)
TS_RUNS(12, 1)
TS_RUNS(1, 2)
TS_RUNS(2, 2)
TS_RUNS(4, 2)
TS_RUNS(6, 2)
TS_RUNS(8, 2)
TS_RUNS(12, 2)
static const TS_NAME(Run) TS_NAME(runs)[2][6][6] = {
    {TS_RUN_NAMES(1, 1), TS_RUN_NAMES(2, 1), TS_RUN_NAMES(4, 1), TS_RUN_NAMES(6, 1), TS_RUN_NAMES(8, 1),
     TS_RUN_NAMES(12, 1)},
    {TS_RUN_NAMES(1, 2), TS_RUN_NAMES(2, 2), TS_RUN_NAMES(4, 2), TS_RUN_NAMES(6, 2), TS_RUN_NAMES(8, 2),
     TS_RUN_NAMES(12, 2)},
};
static const signed char TS_NAME(size_of)[TILE_ROWS + 1] = {0, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5};
static const signed char TS_NAME(rows_of)[6] = {1, 2, 4, 6, 8, 12};
#elif TS_ROWS == 6
TS_RUNS(1, 2)
TS_RUNS(2, 2)
TS_RUNS(4, 2)
TS_RUNS(6, 2)
static const TS_NAME(Run) TS_NAME(runs)[1][4][6] = {
    {TS_RUN_NAMES(1, 2), TS_RUN_NAMES(2, 2), TS_RUN_NAMES(4, 2), TS_RUN_NAMES(6, 2)}};
static const signed char TS_NAME(size_of)[TS_ROWS + 1] = {0, 0, 1, 2, 2, 3, 3};
static const signed char TS_NAME(rows_of)[4] = {1, 2, 4, 6};
#else
TS_RUNS(1, 2)
TS_RUNS(4, 2)
static const TS_NAME(Run) TS_NAME(runs)[1][2][6] = {{TS_RUN_NAMES(1, 2), TS_RUN_NAMES(4, 2)}};
static const signed char TS_NAME(size_of)[TS_ROWS + 1] = {0, 0, 1, 1, 1};
static const signed char TS_NAME(rows_of)[2] = {1, 4};
#endif

TS_TARGET static void TS_NAME(product)(const TileOperands *o, Tile *tile) {
    const int layout = o->fast * 3 + (o->a_rows ? 2 : o->b_steps ? 1 : 0);
    const int vecs = TS_ROWS == 12 ? (o->lanes > TS_WIDTH ? 2 : 1) : 2;
    for (int plane = 0; plane < (o->fast ? 1 : PLANES); plane++)
        for (int row = 0; row < o->rows;) {
            const int left = o->rows - row, most = o->fast ? TS_FAST_ROWS : TS_ROWS;
            const int size = TS_NAME(size_of)[left < most ? left : most];
            for (int lane = 0; lane < o->lanes; lane += vecs * TS_WIDTH)
                TS_NAME(runs)[TS_ROWS == 12 ? vecs - 1 : 0][size][layout](o, plane, row, lane, tile);
            row += TS_NAME(rows_of)[size];
        }
}

typedef double TS_NAME(Doubles) __attribute__((vector_size(64), aligned(8), may_alias));
typedef int64_t TS_NAME(Longs) __attribute__((vector_size(64), aligned(8), may_alias));
typedef int32_t TS_NAME(Half) __attribute__((vector_size(32), aligned(4), may_alias));
typedef float TS_NAME(HalfFloats) __attribute__((vector_size(32), aligned(4), may_alias));

/* Eight sums; below 2 * BLOCK_STEPS * 2^40 < 2^53, so exact. */
#define TS_SUMS(tile, fast, r, l, into)                                                                              \
    do {                                                                                                             \
        const TS_NAME(Half) p0 = *(const TS_NAME(Half) *)&(tile)->piece[0][r][l];                                    \
        const TS_NAME(Half) p1 = *(const TS_NAME(Half) *)&(tile)->piece[1][r][l];                                    \
        if (fast) {                                                                                                  \
            (into) = __builtin_convertvector(p0, TS_NAME(Doubles)) * 65536.0 +                                       \
                     __builtin_convertvector(p1, TS_NAME(Doubles));                                                  \
        } else {                                                                                                     \
            typedef uint32_t Wrapping __attribute__((vector_size(32)));                                              \
            const Wrapping p2 = (Wrapping) * (const TS_NAME(Half) *)&(tile)->piece[2][r][l];                         \
            const TS_NAME(Half) cross = (TS_NAME(Half))(p2 - (Wrapping)p0 - (Wrapping)p1);                           \
            (into) = __builtin_convertvector(p0, TS_NAME(Doubles)) * 1048576.0 +                                     \
                     __builtin_convertvector(cross, TS_NAME(Doubles)) * 1024.0 +                                     \
                     __builtin_convertvector(p1, TS_NAME(Doubles));                                                  \
        }                                                                                                            \
    } while (0)

/* Rounded to float32; magnitudes up to 2^-126 (bits 0x00800000) become +0. */
#define TS_CANONICAL(wide, place)                                                                                    \
    do {                                                                                                             \
        const TS_NAME(HalfFloats) rounded = __builtin_convertvector(wide, TS_NAME(HalfFloats));                      \
        const TS_NAME(Half) pattern = (TS_NAME(Half))rounded;                                                        \
        *(TS_NAME(Half) *)(place) = pattern & ((pattern & 0x7FFFFFFF) > 0x00800000);                                 \
    } while (0)

/* Eight results at a time straight to `result`; the last few of a row by way of `buffer`. */
#define TS_ROW(wide, l)                                                                                              \
    do {                                                                                                             \
        const TS_NAME(Doubles) scaled = (wide)*row_unit[r] * *(const TS_NAME(Doubles) *)(lane_unit + (l));           \
        if ((l) + 8 <= lanes) {                                                                                      \
            TS_CANONICAL(scaled, to + (l));                                                                          \
        } else {                                                                                                     \
            float buffer[8];                                                                                         \
            TS_CANONICAL(scaled, buffer);                                                                            \
            memcpy(to + (l), buffer, sizeof(float) * (size_t)(lanes - (l)));                                         \
        }                                                                                                            \
    } while (0)

TS_TARGET static void TS_NAME(finish)(const Tile *tile, int fast, int rows, int lanes, const double *row_unit,
                                      const double *lane_unit, float *result, int64_t stride) {
    for (int r = 0; r < rows; r++) {
        float *to = result + r * stride;
        for (int l = 0; l < lanes; l += 8) {
            TS_NAME(Doubles) wide;
            TS_SUMS(tile, fast, r, l, wide);
            TS_ROW(wide, l);
        }
    }
}

TS_TARGET static void TS_NAME(accumulate)(const Tile *tile, int fast, int rows, int lanes, int64_t *sums,
                                          int64_t stride) {
    for (int r = 0; r < rows; r++)
        for (int l = 0; l < lanes; l += 8) {
            TS_NAME(Doubles) wide;
            TS_SUMS(tile, fast, r, l, wide);
            *(TS_NAME(Longs) *)(sums + r * stride + l) += __builtin_convertvector(wide, TS_NAME(Longs));
        }
}

TS_TARGET static void TS_NAME(finish_sums)(const int64_t *sums, int64_t sums_stride, int rows, int lanes,
                                           const double *row_unit, const double *lane_unit, float *result,
                                           int64_t stride) {
    for (int r = 0; r < rows; r++) {
        float *to = result + r * stride;
        for (int l = 0; l < lanes; l += 8) {
            const TS_NAME(Longs) total = *(const TS_NAME(Longs) *)(sums + r * sums_stride + l);
            const TS_NAME(Doubles) wide = __builtin_convertvector(total, TS_NAME(Doubles));
            TS_ROW(wide, l);
        }
    }
}

/* Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits. */
#define TS_ROUND(x) ((TS_NAME(Ints))((x)*high * low + 12582912.0f) - 0x4B400000)
#define TS_PAIR(even, odd) (((even)&0xFFFF) | ((odd) << 16))

/* Steps of 16 lanes from rows 2t and 2t + 1 of `from`. */
TS_INLINE void TS_NAME(split)(const float *from, int64_t stride, int steps, int fast, const float *scale_high,
                              const float *scale_low, int lanes, int32_t *to, int64_t plane_stride) {
    const TS_NAME(Floats) high = *(const TS_NAME(Floats) *)scale_high, low = *(const TS_NAME(Floats) *)scale_low;
    for (int t = 0; t < steps; t++, to += lanes) {
        const TS_NAME(Ints) p = TS_ROUND(*(const TS_NAME(Floats) *)(from + 2 * t * stride));
        const TS_NAME(Ints) q = TS_ROUND(*(const TS_NAME(Floats) *)(from + (2 * t + 1) * stride));
        if (fast) {
            *(TS_NAME(Ints) *)to = TS_PAIR(p, q);
        } else {
            const TS_NAME(Ints) p0 = ((p + 512) & 1023) - 512, q0 = ((q + 512) & 1023) - 512;
            const TS_NAME(Ints) p1 = (p - p0) >> 10, q1 = (q - q0) >> 10;
            *(TS_NAME(Ints) *)to = TS_PAIR(p1, q1);
            *(TS_NAME(Ints) *)(to + plane_stride) = TS_PAIR(p0, q0);
            *(TS_NAME(Ints) *)(to + 2 * plane_stride) = TS_PAIR(p0 + p1, q0 + q1);
        }
    }
}

TS_TARGET static void TS_NAME(pair_rows)(const float *even, const float *odd, int64_t count, int fast,
                                         float scale_high, float scale_low, int32_t *to, int64_t plane_stride) {
    float high[16], low[16];
    for (int i = 0; i < 16; i++) high[i] = scale_high, low[i] = scale_low;
    for (int64_t i = 0; i < count; i += 16)
        TS_NAME(split)(even + i, odd - even, 1, fast, high, low, 16, to + i, plane_stride);
}

TS_TARGET static void TS_NAME(single_row)(const float *row, int64_t count, int fast, float scale_high,
                                          float scale_low, void *place, int64_t plane_stride) {
    int16_t *to = place;
    typedef int16_t Shorts __attribute__((vector_size(32), aligned(2), may_alias));
    const float high = scale_high, low = scale_low;
    for (int64_t i = 0; i < count; i += 16) {
        const TS_NAME(Ints) q = TS_ROUND(*(const TS_NAME(Floats) *)(row + i));
        if (fast) {
            *(Shorts *)(to + i) = __builtin_convertvector(q, Shorts);
        } else {
            const TS_NAME(Ints) q0 = ((q + 512) & 1023) - 512, q1 = (q - q0) >> 10;
            *(Shorts *)(to + i) = __builtin_convertvector(q1, Shorts);
            *(Shorts *)(to + plane_stride + i) = __builtin_convertvector(q0, Shorts);
            *(Shorts *)(to + 2 * plane_stride + i) = __builtin_convertvector(q0 + q1, Shorts);
        }
    }
}

/* 32 terms of 16 outer indices as rows of `to`, zero where the source ends. */
TS_INLINE void TS_NAME(gather)(const Source *s, int64_t outer0, int64_t k0, int64_t terms, float (*to)[16]) {
    const int64_t left = s->outer - outer0, outers = left < 16 ? (left < 0 ? 0 : left) : 16;
    memset(to, 0, sizeof(float) * 32 * 16);
    const float *from = s->data + outer0 * s->outer_stride + k0 * s->k_stride;
    if (s->outer_stride == 1) {
        for (int64_t k = 0; k < terms; k++) memcpy(to[k], from + k * s->k_stride, sizeof(float) * (size_t)outers);
    } else {
        for (int64_t o = 0; o < outers; o++)
            for (int64_t k = 0; k < terms; k++) to[k][o] = from[o * s->outer_stride + k * s->k_stride];
    }
}

/* Of up to 16 lanes of a panel, zero beyond it or the source: the units that follow may not be known yet. */
TS_INLINE void TS_NAME(scales)(const Source *s, int64_t outer0, int lanes, float *high, float *low) {
    const int64_t left = s->outer - outer0, outers = left < lanes ? left : lanes;
    for (int64_t o = 0; o < 16; o++) {
        high[o] = o < outers ? s->scale_high[outer0 + o] : 0.0f;
        low[o] = o < outers ? s->scale_low[outer0 + o] : 0.0f;
    }
}

/* Where up to 32 terms of 16 outer indices lie as rows, and how far apart: in the source, if it has
 * them so and their number is a multiple of what a step takes, or else gathered in `block`. */
TS_INLINE const float *TS_NAME(rows_from)(const Source *s, int64_t outer0, int64_t k0, int64_t terms, int multiple,
                                          float (*block)[16], int64_t *stride) {
    const int inside = outer0 + 16 <= s->outer;
    const float *from = s->data + outer0 * s->outer_stride + k0 * s->k_stride;
    if (inside && s->outer_stride == 1 && terms % multiple == 0) {
        *stride = s->k_stride;
        return from;
    }
    *stride = 16;
    if (inside && s->k_stride == 1 && terms == 32) {
        TS_TRANSPOSE(from, s->outer_stride, block[0]);
        TS_TRANSPOSE(from + 16, s->outer_stride, block[16]);
    } else {
        TS_NAME(gather)(s, outer0, k0, terms, block);
    }
    return block[0];
}

TS_TARGET static void TS_NAME(pack)(const Source *s, int fast, int64_t first, int lanes, int64_t k0, int64_t count,
                                    int32_t *panel, int64_t plane_stride) {
    float block[32][16] __attribute__((aligned(64)));
    for (int lane = 0; lane < lanes; lane += 16) {
        const int64_t outer0 = first + lane;
        if (outer0 >= s->outer) break; /* nobody reads what these lanes give */
        float scale_high[16], scale_low[16];
        TS_NAME(scales)(s, outer0, lanes - lane, scale_high, scale_low);
        for (int64_t k = 0; k < count; k += 32) {
            const int64_t terms = count - k < 32 ? count - k : 32;
            int64_t stride;
            const float *from = TS_NAME(rows_from)(s, outer0, k0 + k, terms, 2, block, &stride);
            TS_NAME(split)(from, stride, (int)((terms + 1) / 2), fast, scale_high, scale_low, lanes,
                           panel + k / 2 * lanes + lane, plane_stride);
        }
    }
}

TS_TARGET static void TS_NAME(peaks)(const Source *s, int64_t first, int64_t last, int32_t *peak) {
    const int32_t *data = (const int32_t *)s->data;
    if (s->outer_stride == 1 && s->k_stride != 1) {
        const int64_t count = last - first;
        for (int64_t o = 0; o < count; o++) peak[first + o] = 0;
        for (int64_t k = 0; k < s->k; k++) {
            const int32_t *from = data + first + k * s->k_stride;
            int32_t *to = peak + first;
            for (int64_t o = 0; o < count; o++) {
                const int32_t magnitude = from[o] & 0x7FFFFFFF;
                to[o] = to[o] < magnitude ? magnitude : to[o];
            }
        }
        return;
    }
    for (int64_t o = first; o < last; o++) {
        const int32_t *from = data + o * s->outer_stride;
        int32_t largest = 0;
        if (s->k_stride == 1) {
            for (int64_t k = 0; k < s->k; k++) {
                const int32_t magnitude = from[k] & 0x7FFFFFFF;
                largest = largest < magnitude ? magnitude : largest;
            }
        } else {
            for (int64_t k = 0; k < s->k; k++) {
                const int32_t magnitude = from[k * s->k_stride] & 0x7FFFFFFF;
                largest = largest < magnitude ? magnitude : largest;
            }
        }
        peak[o] = largest;
    }
}

static const TileLoops TS_NAME(loops) = {
    .rows = TILE_ROWS,
    .planes = {PLANES, 1},
    .step_terms = 2,
    .step_entries = 1,
    .step_multiple = 1,
    .product = TS_NAME(product),
    .finish = TS_NAME(finish),
    .accumulate = TS_NAME(accumulate),
    .finish_sums = TS_NAME(finish_sums),
    .pack = TS_NAME(pack),
    .pair_rows = TS_NAME(pair_rows),
    .single_row = TS_NAME(single_row),
    .peaks = TS_NAME(peaks),
};

#ifdef TS_FMA
#include "tile_doubles.h"
#endif

#undef TS_INLINE
#undef TS_RUN
#undef TS_RUNS
#undef TS_RUN_NAMES
#undef TS_SUMS
#undef TS_CANONICAL
#undef TS_ROW
#undef TS_ROUND
#undef TS_PAIR
