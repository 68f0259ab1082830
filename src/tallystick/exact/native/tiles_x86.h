/* tile_loops.h for AVX2, AVX-512 and AVX-512 with VNNI, and on doubles with FMA for the first two. */
#include <immintrin.h>

/* 16 rows of 16 entries of four bytes, whatever these are: they are only moved. */
TS_AVX512 static inline void transpose_512(const void *matrix, int64_t from_row, void *result, int64_t to_row) {
    const float *from = matrix;
    float *to = result;
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(from + i * from_row);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d x = _mm512_castps_pd(b[i + j]), y = _mm512_castps_pd(b[i + 2 + j]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    for (int j = 0; j < 4; j++) { /* a[4g + j] holds columns j, j+4, j+8, j+12 of rows 4g .. 4g+3 */
        b[j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
        b[4 + j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xDD);
        b[8 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
        b[12 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xDD);
    }
    for (int j = 0; j < 4; j++) {
        _mm512_storeu_ps(to + j * to_row, _mm512_shuffle_f32x4(b[j], b[8 + j], 0x88));
        _mm512_storeu_ps(to + (8 + j) * to_row, _mm512_shuffle_f32x4(b[j], b[8 + j], 0xDD));
        _mm512_storeu_ps(to + (4 + j) * to_row, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0x88));
        _mm512_storeu_ps(to + (12 + j) * to_row, _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0xDD));
    }
}

#define TS_LEVEL avx2
#define TS_TARGET __attribute__((target("avx2,fma")))
#define TS_VEC __m256i
#define TS_WIDTH 8
#define TS_ROWS 6
#define TS_FAST_ROWS 6
#define TS_VECS 2
#define TS_ZERO() _mm256_setzero_si256()
#define TS_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define TS_STORE(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#define TS_SPREAD(p) _mm256_set1_epi32(*(const Unaligned *)(p))
#define TS_DOT(sums, a, b) _mm256_add_epi32(sums, _mm256_madd_epi16(a, b))
#define TS_ADD(a, b) _mm256_add_epi32(a, b)
#define TS_HIGH(x) _mm256_srai_epi32(x, 16)
#define TS_LOW(x) _mm256_and_si256(x, _mm256_set1_epi32(0xFFFF))
#define TS_TRANSPOSE(from, stride, to) transpose_scalar(from, stride, to)
#define TS_FMA(a, b, c) _mm256_fmadd_pd(a, b, c)
#define TS_DOUBLE __m256d
#define TS_DOUBLE_LOAD(p) _mm256_loadu_pd(p)
#define TS_DOUBLE_STORE(p, x) _mm256_storeu_pd(p, x)
#define TS_DOUBLE_SPREAD(p) _mm256_set1_pd(*(p))
#define TS_DOUBLE_ZERO() _mm256_setzero_pd()
#include "tile_loops.h"
#undef TS_FMA
#undef TS_DOUBLE
#undef TS_DOUBLE_LOAD
#undef TS_DOUBLE_STORE
#undef TS_DOUBLE_SPREAD
#undef TS_DOUBLE_ZERO
#undef TS_LEVEL
#undef TS_TARGET
#undef TS_VEC
#undef TS_WIDTH
#undef TS_ROWS
#undef TS_FAST_ROWS
#undef TS_ZERO
#undef TS_LOAD
#undef TS_STORE
#undef TS_SPREAD
#undef TS_DOT
#undef TS_ADD
#undef TS_HIGH
#undef TS_LOW
#undef TS_TRANSPOSE

#define TS_VEC __m512i
#define TS_WIDTH 16
#define TS_ROWS 12
#define TS_FAST_ROWS 6
#define TS_ZERO() _mm512_setzero_si512()
#define TS_LOAD(p) _mm512_loadu_si512(p)
#define TS_STORE(p, x) _mm512_storeu_si512(p, x)
#define TS_SPREAD(p) _mm512_set1_epi32(*(const Unaligned *)(p))
#define TS_ADD(a, b) _mm512_add_epi32(a, b)
#define TS_HIGH(x) _mm512_srai_epi32(x, 16)
#define TS_LOW(x) _mm512_and_si512(x, _mm512_set1_epi32(0xFFFF))
#define TS_TRANSPOSE(from, stride, to) transpose_512(from, stride, to, 16)

#define TS_LEVEL avx512
#define TS_TARGET TS_AVX512
#define TS_DOT(sums, a, b) _mm512_add_epi32(sums, _mm512_madd_epi16(a, b))
#define TS_FMA(a, b, c) _mm512_fmadd_pd(a, b, c)
#define TS_DOUBLE __m512d
#define TS_DOUBLE_LOAD(p) _mm512_loadu_pd(p)
#define TS_DOUBLE_STORE(p, x) _mm512_storeu_pd(p, x)
#define TS_DOUBLE_SPREAD(p) _mm512_set1_pd(*(p))
#define TS_DOUBLE_ZERO() _mm512_setzero_pd()
#include "tile_loops.h"
#undef TS_LEVEL
#undef TS_TARGET
#undef TS_DOT
#undef TS_FMA

#define TS_LEVEL vnni
#if defined(__clang__)
#define TS_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni")))
#else
#define TS_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,prefer-vector-width=512")))
#endif
#define TS_DOT(sums, a, b) _mm512_dpwssd_epi32(sums, a, b)
#include "tile_loops.h"
