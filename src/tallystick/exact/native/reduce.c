/* Exact sums (exact/sums.py): the largest magnitude of each sum's terms fixes its unit, terms are rounded to integers of
 * at most 30 bits, and those add up in any order. Also log_softmax and softmax along rows, as exact/reductions.py
 * composes them. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scalar.h"
#include "simd.h"
#include "threads.h"

enum { TERM_BITS = 30, COLUMNS = 128, SERIAL = 1 << 18, CHUNK = 4096 };
/* CHUNK terms below 2**31 add up exactly in float64, and in int64 there is room for 2**33 of them. */

/* A float32 tensor seen as [outer][reduced][middle][inner]: sums run over `reduced` and, if rows, over `inner`.
 * Rows: inner is summed and `middle` is 1. Columns: inner is kept. Strides are in entries; inner lies side by side. */
typedef struct {
    int64_t outer, reduced, inner;
    int64_t outer_stride, reduced_stride;
    int64_t by_rows;
} space;

typedef struct {
    const space *s;
    const float *x;
    float *y;
    int failed; /* 1: an infinity or a NaN; 2: no memory */
} job;

TS_INLINE double unit_of(uint32_t peak, int64_t bits) { return power_of_two((int64_t)(peak >> 23) - 126 - bits); }
TS_INLINE double inverse_unit(uint32_t peak, int64_t bits) {
    return power_of_two(bits + 126 - (int64_t)(peak >> 23));
}

#define TS_NAME(name) name##_portable
#define TS_TARGET
#include "reduce_loops.h"
#if TS_X86
#define TS_NAME(name) name##_avx2
#define TS_TARGET TS_AVX2
#include "reduce_loops.h"
#define TS_NAME(name) name##_avx512
#define TS_TARGET TS_AVX512
#include "reduce_loops.h"
#endif

typedef struct {
    uint32_t (*peak)(const float *, int64_t);
    int64_t (*total)(const float *, int64_t, double);
    void (*column_peaks)(uint32_t *, const float *, int64_t);
    void (*column_totals)(double *, const float *, const double *, int64_t);
    uint32_t (*softmax_row)(float *, const float *, int64_t, int);
} loops;

#define LOOPS(set) {peak_##set, total_##set, column_peaks_##set, column_totals_##set, softmax_row_##set}
static const loops portable = LOOPS(portable);
#if TS_X86
static const loops avx2 = LOOPS(avx2), avx512 = LOOPS(avx512);
#endif

static const loops *loops_here(void) {
#if TS_X86
    int level = ts_simd_level();
    if (level == 2) return &avx512;
    if (level == 1) return &avx2;
#endif
    return &portable;
}

static void fail(job *j, int how) { __atomic_store_n(&j->failed, how, __ATOMIC_RELAXED); }

static float sum_of(int64_t total, uint32_t peak) { return canonical((float)((double)total * unit_of(peak, TERM_BITS))); }

/* Sums [first, end) of those that run over whole rows. */
static void rows(job *j, int64_t first, int64_t end) {
    const space *s = j->s;
    const loops *l = loops_here();
    for (int64_t o = first; o < end; o++) {
        const float *x = j->x + o * s->outer_stride;
        uint32_t peak = 0;
        for (int64_t r = 0; r < s->reduced; r++) {
            uint32_t p = l->peak(x + r * s->reduced_stride, s->inner);
            peak = p > peak ? p : peak;
        }
        if (peak >= TS_INFINITY) {
            fail(j, 1);
            return;
        }
        int64_t total = 0;
        const double inverse = inverse_unit(peak, TERM_BITS);
        for (int64_t r = 0; r < s->reduced; r++) total += l->total(x + r * s->reduced_stride, s->inner, inverse);
        j->y[o] = sum_of(total, peak);
    }
}

/* Sums of up to COLUMNS neighboring columns. */
static void columns(job *j, const float *x, float *y, int64_t count) {
    const space *s = j->s;
    const loops *l = loops_here();
    uint32_t peaks[COLUMNS];
    double inverse[COLUMNS], part[COLUMNS];
    int64_t totals[COLUMNS];
    memset(peaks, 0, sizeof peaks);
    memset(totals, 0, sizeof totals);
    for (int64_t r = 0; r < s->reduced; r++) l->column_peaks(peaks, x + r * s->reduced_stride, count);
    for (int64_t c = 0; c < count; c++) {
        if (peaks[c] >= TS_INFINITY) {
            fail(j, 1);
            return;
        }
        inverse[c] = inverse_unit(peaks[c], TERM_BITS);
    }
    for (int64_t r = 0; r < s->reduced;) {
        const int64_t end = s->reduced - r < CHUNK ? s->reduced : r + CHUNK;
        memset(part, 0, sizeof part);
        for (; r < end; r++) l->column_totals(part, x + r * s->reduced_stride, inverse, count);
        for (int64_t c = 0; c < count; c++) totals[c] += (int64_t)part[c];
    }
    for (int64_t c = 0; c < count; c++) y[c] = sum_of(totals[c], peaks[c]);
}

static void sum_part(void *context, int part, int parts) {
    job *j = context;
    const space *s = j->s;
    if (s->by_rows) {
        rows(j, s->outer * part / parts, s->outer * (part + 1) / parts);
        return;
    }
    const int64_t strips = (s->inner + COLUMNS - 1) / COLUMNS, all = s->outer * strips;
    for (int64_t i = all * part / parts; i < all * (part + 1) / parts; i++) {
        const int64_t o = i / strips, c = i % strips * COLUMNS, left = s->inner - c;
        columns(j, j->x + o * s->outer_stride + c, j->y + o * s->inner + c, left < COLUMNS ? left : COLUMNS);
    }
}

/* 0, or 1 if a term is an infinity or a NaN. */
int ts_sum(const int64_t *dimensions, const float *x, float *y, int threads) {
    space s;
    memcpy(&s, dimensions, sizeof s);
    job j = {&s, x, y, 0};
    const int serial = s.outer * s.reduced * s.inner < SERIAL;
    if (serial)
        sum_part(&j, 0, 1);
    else
        ts_parallel(threads, sum_part, &j);
    return j.failed;
}

typedef struct {
    const float *x;
    float *y;
    int64_t rows, columns;
    int logarithm, failed;
} softmax_job;

static void softmax_part(void *context, int part, int parts) {
    softmax_job *j = context;
    const loops *l = loops_here();
    for (int64_t r = j->rows * part / parts; r < j->rows * (part + 1) / parts; r++) {
        const int64_t at = r * j->columns;
        if (l->softmax_row(j->y + at, j->x + at, j->columns, j->logarithm) >= TS_INFINITY) {
            __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
            return;
        }
    }
}

/* softmax, or its logarithm, of each row; 0, or 1 if the operand of a sum is an infinity or a NaN. */
int ts_softmax(const float *x, float *y, int64_t rows, int64_t columns, int logarithm, int threads) {
    softmax_job j = {x, y, rows, columns, logarithm, 0};
    if (rows * columns < SERIAL)
        softmax_part(&j, 0, 1);
    else
        ts_parallel(threads, softmax_part, &j);
    return j.failed;
}
