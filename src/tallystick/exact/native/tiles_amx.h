/* The loops of tiles.h on AMX, x86's unit for tiles of int8 (Intel, Architecture Instruction Set Extensions
 * Programming Reference, chapter 3): one instruction multiplies 16 rows of 64 terms by 64 terms of 16 lanes.
 *
 * An entry q is d0 + d1 * 2^7 + d2 * 2^14 in `full` and d0 + d1 * 2^7 in `fast`, with digits in [-64, 63] and the highest
 * in [-64, 64]. Products of digits with equal weight are added in the same int32, which holds BLOCK_TERMS terms:
 * 3 * 2^12 * 2016 < 2^31. A step holds four terms, as the bytes of an int32; a panel has a multiple of 16 steps, the last
 * ones zero. A left panel is tiles of int32 [row][step], one below the other; a right one is int32 [step][lane]. */
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__clang__)
#define AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512dq,avx512bw,avx512vl")))
#else
#define AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")))
#endif
#define AMX_INLINE static inline __attribute__((always_inline)) AMX

enum {
    SIDE = 16,         /* of a tile: rows, steps, lanes */
    STEP_TERMS = 4,
    TILE_TERMS = SIDE * STEP_TERMS,
    TILE_ENTRIES = SIDE * SIDE,
    ASK_FOR_STATE = 0x1023, /* ARCH_REQ_XCOMP_PERM */
    TILE_DATA = 18,         /* its number among the states that the system saves for a thread */
};

/* Whether the processor has the unit and the system lets this process use it. */
static int amx_asked(void) {
    unsigned eax, ebx, ecx, edx;
    const unsigned tile = 1u << 24, int8 = 1u << 25;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & (tile | int8)) != (tile | int8)) return 0;
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

static int amx_usable(void) {
    static int known; /* 0: not asked yet; 1: no; 2: yes. Asking twice does no harm. */
    int answer = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!answer) {
        answer = 1 + amx_asked();
        __atomic_store_n(&known, answer, __ATOMIC_RELAXED);
    }
    return answer == 2;
}

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} Configuration;

/* Not made on the stack: GCC 12 does not know how much of it the instruction reads. */
static const Configuration eight_tiles = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE},
};

AMX static void amx_enter(void) { _tile_loadconfig(&eight_tiles); }

/* Until then the system saves eight kibibytes more whenever the thread is interrupted. */
AMX static void amx_leave(void) { _tile_release(); }

/* ---- products ---- */

enum { LEFT_BYTES = SIDE * sizeof(int32_t), RIGHT_BYTES = TILE_LANES * sizeof(int32_t) };

/* Tiles 0 to 4 are the sums of weight 2^0, 2^7 .. 2^28. The order keeps the sums that follow each other different, since
 * one has to wait for itself, and the operands that follow each other alike. */
AMX static void multiply_full(const TileOperands *o, int lane, Tile *tile) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    for (int t = 0; t < o->steps; t += SIDE) {
        const int32_t *a0 = o->a[0] + t * SIDE, *a1 = o->a[1] + t * SIDE, *a2 = o->a[2] + t * SIDE;
        const int64_t right = (int64_t)t * TILE_LANES + lane;
        const int32_t *b0 = o->b[0] + right, *b1 = o->b[1] + right, *b2 = o->b[2] + right;
        _tile_loadd(5, a0, LEFT_BYTES);
        _tile_loadd(6, b2, RIGHT_BYTES);
        _tile_dpbssd(2, 5, 6);
        _tile_loadd(7, b1, RIGHT_BYTES);
        _tile_dpbssd(1, 5, 7);
        _tile_loadd(5, a1, LEFT_BYTES);
        _tile_dpbssd(3, 5, 6);
        _tile_dpbssd(2, 5, 7);
        _tile_loadd(7, a0, LEFT_BYTES);
        _tile_loadd(6, b0, RIGHT_BYTES);
        _tile_dpbssd(0, 7, 6);
        _tile_dpbssd(1, 5, 6);
        _tile_loadd(5, a2, LEFT_BYTES);
        _tile_dpbssd(2, 5, 6);
        _tile_loadd(7, b1, RIGHT_BYTES);
        _tile_dpbssd(3, 5, 7);
        _tile_loadd(6, b2, RIGHT_BYTES);
        _tile_dpbssd(4, 5, 6);
    }
    _tile_stored(0, &tile->weight[0][0][lane], RIGHT_BYTES);
    _tile_stored(1, &tile->weight[1][0][lane], RIGHT_BYTES);
    _tile_stored(2, &tile->weight[2][0][lane], RIGHT_BYTES);
    _tile_stored(3, &tile->weight[3][0][lane], RIGHT_BYTES);
    _tile_stored(4, &tile->weight[4][0][lane], RIGHT_BYTES);
}

/* Tiles 0 to 2 are the sums of weight 2^0, 2^7, 2^14; 3 is a second one of 2^7. */
AMX static void multiply_fast(const TileOperands *o, int lane, Tile *tile) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int t = 0; t < o->steps; t += SIDE) {
        const int64_t right = (int64_t)t * TILE_LANES + lane;
        _tile_loadd(4, o->a[0] + t * SIDE, LEFT_BYTES);
        _tile_loadd(6, o->b[0] + right, RIGHT_BYTES);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(7, o->b[1] + right, RIGHT_BYTES);
        _tile_dpbssd(1, 4, 7);
        _tile_loadd(5, o->a[1] + t * SIDE, LEFT_BYTES);
        _tile_dpbssd(2, 5, 7);
        _tile_dpbssd(3, 5, 6);
    }
    _tile_stored(0, &tile->weight[0][0][lane], RIGHT_BYTES);
    _tile_stored(1, &tile->weight[1][0][lane], RIGHT_BYTES);
    _tile_stored(2, &tile->weight[2][0][lane], RIGHT_BYTES);
    _tile_stored(3, &tile->weight[3][0][lane], RIGHT_BYTES);
}

AMX static void amx_product(const TileOperands *o, Tile *tile) {
    for (int lane = 0; lane < o->lanes; lane += SIDE) {
        if (o->fast) {
            multiply_fast(o, lane, tile);
        } else {
            multiply_full(o, lane, tile);
        }
    }
}

AMX_INLINE __mmask16 first_of_16(int64_t count) {
    return count >= SIDE ? 0xFFFF : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

AMX_INLINE __m512d half_of(__m512i x, int half) {
    return _mm512_cvtepi32_pd(half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x));
}

/* Sixteen sums; below 2 * BLOCK_STEPS * 2^40 < 2^53, so exact. Neighboring weights are put together as int32 while they
 * fit: 2016 * (2 * 2^12 * 2^7 + 2^12) < 2^31. */
AMX_INLINE void wide_sums(const Tile *tile, int fast, int r, int l, __m512d *first, __m512d *last) {
    __m512i w[WEIGHTS];
    for (int i = 0; i < (fast ? 4 : 5); i++) w[i] = _mm512_load_si512(&tile->weight[i][r][l]);
    if (fast) w[1] = _mm512_add_epi32(w[1], w[3]);
    const __m512i low = _mm512_add_epi32(_mm512_slli_epi32(w[1], 7), w[0]);
    const __m512i high = fast ? _mm512_setzero_si512() : _mm512_add_epi32(_mm512_slli_epi32(w[4], 7), w[3]);
    for (int half = 0; half < 2; half++) {
        const __m512d middle = _mm512_mul_pd(half_of(w[2], half), _mm512_set1_pd(0x1p14));
        __m512d sum = _mm512_add_pd(middle, half_of(low, half));
        if (!fast) sum = _mm512_add_pd(_mm512_mul_pd(half_of(high, half), _mm512_set1_pd(0x1p21)), sum);
        *(half ? last : first) = sum;
    }
}

/* Rounded to float32; magnitudes up to 2^-126 (bits 0x00800000) become +0. */
AMX_INLINE __m256 canonical(__m512d wide) {
    const __m256 rounded = _mm512_cvtpd_ps(wide);
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(rounded), _mm256_set1_epi32(0x7FFFFFFF));
    return _mm256_maskz_mov_ps(_mm256_cmpgt_epi32_mask(magnitude, _mm256_set1_epi32(0x00800000)), rounded);
}

AMX static void amx_finish(const Tile *tile, int fast, int rows, int lanes, const double *row_unit,
                       const double *lane_unit, float *result, int64_t stride) {
    for (int r = 0; r < rows; r++) {
        const __m512d row = _mm512_set1_pd(row_unit[r]);
        for (int l = 0; l < lanes; l += SIDE) {
            __m512d first, last;
            wide_sums(tile, fast, r, l, &first, &last);
            first = _mm512_mul_pd(_mm512_mul_pd(first, row), _mm512_loadu_pd(lane_unit + l));
            last = _mm512_mul_pd(_mm512_mul_pd(last, row), _mm512_loadu_pd(lane_unit + l + 8));
            const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(canonical(first)), canonical(last), 1);
            _mm512_mask_storeu_ps(result + r * stride + l, first_of_16(lanes - l), both);
        }
    }
}

AMX static void amx_accumulate(const Tile *tile, int fast, int rows, int lanes, int64_t *sums, int64_t stride) {
    for (int r = 0; r < rows; r++)
        for (int l = 0; l < lanes; l += SIDE) {
            __m512d part[2];
            wide_sums(tile, fast, r, l, part, part + 1);
            for (int half = 0; half < 2; half++) {
                int64_t *to = sums + r * stride + l + half * 8;
                const __m512i sum = _mm512_add_epi64(_mm512_loadu_si512(to), _mm512_cvtpd_epi64(part[half]));
                _mm512_storeu_si512(to, sum);
            }
        }
}

/* ---- panels ---- */

/* Rounds 16 entries and splits them into digits. */
AMX_INLINE void split(__m512 x, __m512 high, __m512 low, int fast, __m512i digit[PLANES]) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_mul_ps(x, high), low));
    const __m512i half = _mm512_set1_epi32(64), mask = _mm512_set1_epi32(127);
    const __m512i up = _mm512_add_epi32(q, _mm512_set1_epi32(fast ? 64 : 64 + 64 * 128));
    digit[0] = _mm512_sub_epi32(_mm512_and_si512(up, mask), half);
    digit[1] = _mm512_srai_epi32(up, 7);
    if (fast) return;
    digit[1] = _mm512_sub_epi32(_mm512_and_si512(digit[1], mask), half);
    digit[2] = _mm512_srai_epi32(up, 14);
}

/* Up to 64 terms of up to 16 outer indices, whose terms lie side by side, to a tile [outer][step] of each digit. */
AMX_INLINE void split_lines(const float *from, int64_t outer_stride, int64_t outers, int64_t terms, int fast,
                            const float *scale_high, const float *scale_low, int32_t tiles[PLANES][SIDE][SIDE]) {
    for (int64_t o = 0; o < outers; o++, from += outer_stride) {
        const __m512 high = _mm512_set1_ps(scale_high[o]), low = _mm512_set1_ps(scale_low[o]);
        for (int k = 0; k < TILE_TERMS; k += SIDE) {
            __m512i digit[PLANES];
            split(_mm512_maskz_loadu_ps(first_of_16(terms - k), from + k), high, low, fast, digit);
            for (int p = 0; p < (fast ? 2 : 3); p++)
                _mm_storeu_si128((__m128i *)(void *)&tiles[p][o][k / STEP_TERMS], _mm512_cvtepi32_epi8(digit[p]));
        }
    }
}

/* The same where each term's outer indices lie side by side, to tiles [step][outer] whose rows are `row` apart. */
AMX_INLINE void split_columns(const float *from, int64_t k_stride, int64_t outers, int64_t terms, int fast,
                              const float *scale_high, const float *scale_low, int32_t *to, int64_t row,
                              int64_t plane_stride) {
    const __m512 high = _mm512_loadu_ps(scale_high), low = _mm512_loadu_ps(scale_low);
    const __mmask16 kept = first_of_16(outers);
    for (int64_t k = 0; k < TILE_TERMS; k += STEP_TERMS, to += row) {
        __m512i bytes[PLANES];
        for (int i = 0; i < STEP_TERMS; i++) {
            __m512i digit[PLANES];
            const __mmask16 mask = k + i < terms ? kept : 0;
            split(_mm512_maskz_loadu_ps(mask, from + (mask ? (k + i) * k_stride : 0)), high, low, fast, digit);
            for (int p = 0; p < (fast ? 2 : 3); p++) {
                const __m512i byte = _mm512_and_si512(digit[p], _mm512_set1_epi32(255));
                bytes[p] = i ? _mm512_or_si512(bytes[p], _mm512_slli_epi32(byte, (unsigned)(8 * i))) : byte;
            }
        }
        for (int p = 0; p < (fast ? 2 : 3); p++) _mm512_storeu_si512(to + p * plane_stride, bytes[p]);
    }
}

/* 64 terms of 16 outer indices; `row`: of a right panel the distance of steps, of a left one that of rows. */
AMX_INLINE void pack_tile(const Source *s, int fast, int left, int64_t outer0, int64_t k0, int64_t terms, int32_t *to,
                          int64_t row, int64_t plane_stride) {
    int32_t tiles[PLANES][SIDE][SIDE] __attribute__((aligned(64)));
    float block[TILE_TERMS][SIDE] __attribute__((aligned(64)));
    const float *scale_high = s->scale_high + outer0, *scale_low = s->scale_low + outer0;
    const int64_t outers = s->outer - outer0 < SIDE ? s->outer - outer0 : SIDE;
    const float *from = s->data + outer0 * s->outer_stride + k0 * s->k_stride;
    int64_t k_stride = s->k_stride;
    if (k_stride == 1) {
        split_lines(from, s->outer_stride, outers, terms, fast, scale_high, scale_low, tiles);
    } else {
        if (s->outer_stride != 1) {
            for (int64_t k = 0; k < terms; k++)
                for (int64_t o = 0; o < outers; o++) block[k][o] = from[o * s->outer_stride + k * k_stride];
            from = block[0], k_stride = SIDE;
        }
        if (!left) {
            split_columns(from, k_stride, outers, terms, fast, scale_high, scale_low, to, row, plane_stride);
            return;
        }
        split_columns(from, k_stride, outers, terms, fast, scale_high, scale_low, tiles[0][0], SIDE, TILE_ENTRIES);
    }
    for (int p = 0; p < (fast ? 2 : 3); p++) {
        if (left && s->k_stride == 1) {
            memcpy(to + p * plane_stride, tiles[p], sizeof tiles[p]);
        } else {
            transpose_512(tiles[p][0], SIDE, to + p * plane_stride, row);
        }
    }
}

AMX static void amx_pack(const Source *s, int fast, int64_t first, int lanes, int64_t k0, int64_t count, int32_t *panel,
                     int64_t plane_stride) {
    const int left = lanes == SIDE;
    for (int lane = 0; lane < lanes && first + lane < s->outer; lane += SIDE)
        for (int64_t k = 0; k < count; k += TILE_TERMS) {
            int32_t *to = panel + k / STEP_TERMS * lanes + lane;
            const int64_t terms = count - k < TILE_TERMS ? count - k : TILE_TERMS;
            pack_tile(s, fast, left, first + lane, k0 + k, terms, to, lanes, plane_stride);
        }
}

static const TileLoops loops_amx = {
    .rows = SIDE,
    .planes = {3, 2},
    .step_terms = STEP_TERMS,
    .step_entries = 1,
    .step_multiple = SIDE,
    .enter = amx_enter,
    .leave = amx_leave,
    .product = amx_product,
    .finish = amx_finish,
    .accumulate = amx_accumulate,
    .finish_sums = finish_sums_vnni,
    .pack = amx_pack,
    .peaks = peaks_vnni,
};
