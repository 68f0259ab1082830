/* Products of small integers, exact: the inner loops that the matrix product and the convolution share.
 *
 * An operand entry is an integer q of `bits` bits. In the profile `full` (20 bits) it is split as q = q1 * 2^10 + q0
 * with q0 in [-512, 511] and q1 in [-1024, 1024], and multiplied by Karatsuba's three products q1*q1, q0*q0 and
 * (q0+q1)*(q0+q1). In `fast` (13 bits) it is one 16-bit number. Each of these numbers is a *plane*; a *step* holds two
 * terms of the sum, as two 16-bit halves of an int32, low half first, which is what multiply-and-add-pairs instructions
 * take. A panel is a plane of PANEL lanes: int32 [steps][lanes]. Doubles (tile_doubles.h) and AMX (tiles_amx.h) have
 * layouts of their own. */
#ifndef TS_TILES_H
#define TS_TILES_H

#include <stdint.h>

enum {
    TILE_ROWS = 12,
    TILE_LANES = 32,
    PLANES = 3,
    BLOCK_TERMS = 2016, /* of one call; the int32 results stay below 2^31: 2016 * 2^20 */
    BLOCK_STEPS = BLOCK_TERMS / 2,
    WIDEN_STEPS = 15,   /* 2 * 15 * 2^26 + 2^16 < 2^31 */
    SPILL = 16,         /* int32 entries that writing a panel may touch behind it */
    WEIGHTS = 5,        /* what follows is for AMX (tiles_amx.h) */
    DIGIT_ROWS = 16
};

typedef struct {
    int fast;  /* profile */
    int steps; /* of at most BLOCK_TERMS terms */
    int rows, lanes;
    const int32_t *a[PLANES];
    const int32_t *a_rows; /* byte offset of each row, whose steps then lie side by side; NULL: a panel of TILE_ROWS */
    const int32_t *b[PLANES];
    const int32_t *b_steps; /* offset of each step in int32 entries; NULL: a panel of TILE_LANES */
} TileOperands;

/* The sums, as they are or as three int32 pieces. full: q1*q1, q0*q0, (q0+q1)*(q0+q1), the last modulo 2^32.
 * fast: the sum is [0] * 2^16 + [1]. By digits: sums of weight 2^(7 * i), in `fast` [3] has the weight of [1]. */
typedef union {
    double sum[TILE_ROWS][TILE_LANES] __attribute__((aligned(64)));
    int32_t piece[PLANES][TILE_ROWS][TILE_LANES] __attribute__((aligned(64)));
    int32_t weight[WEIGHTS][DIGIT_ROWS][TILE_LANES] __attribute__((aligned(64)));
} Tile;

/* A float32 matrix [outer][k] by strides (in entries), with 2^-unit of each outer index as a product of two floats,
 * since it can lie outside of float32's range. */
typedef struct {
    const float *data;
    int64_t outer, k, outer_stride, k_stride;
    const float *scale_high, *scale_low; /* readable up to outer + TILE_LANES */
} Source;

typedef struct {
    int rows;          /* of a left panel; a right one has TILE_LANES lanes */
    int planes[2];     /* in full, in fast */
    int step_terms;    /* terms that a step holds */
    int step_entries;  /* int32 entries that it takes for each lane */
    int step_multiple; /* of which the number of steps in a panel is a multiple */
    /* Before the first product of a thread's piece of work, and behind the last; may be NULL. */
    void (*enter)(void);
    void (*leave)(void);
    void (*product)(const TileOperands *operands, Tile *tile);
    /* result[row * stride + lane] = the sums times row_unit[row] * lane_unit[lane], as canonical float32. */
    void (*finish)(const Tile *tile, int fast, int rows, int lanes, const double *row_unit, const double *lane_unit,
                   float *result, int64_t stride);
    /* sums[row * stride + lane] += the sums */
    void (*accumulate)(const Tile *tile, int fast, int rows, int lanes, int64_t *sums, int64_t stride);
    /* As finish, from accumulated sums. */
    void (*finish_sums)(const int64_t *sums, int64_t sums_stride, int rows, int lanes, const double *row_unit,
                        const double *lane_unit, float *result, int64_t stride);
    /* Writes `lanes` (`rows` or TILE_LANES) outer indices from `first`, terms k0 .. k0 + count - 1,
     * as one panel for each plane, `plane_stride` entries apart. Lanes beyond the source's end hold anything. */
    void (*pack)(const Source *source, int fast, int64_t first, int lanes, int64_t k0, int64_t count, int32_t *panel,
                 int64_t plane_stride);
    /* Rounds and splits `count` terms with one unit: those of two rows side by side as steps (of `even` alone if a step
     * holds one term), or of one row as terms; a multiple of 16 is written, to one array for each plane. */
    void (*pair_rows)(const float *even, const float *odd, int64_t count, int fast, float scale_high, float scale_low,
                      int32_t *to, int64_t plane_stride);
    void (*single_row)(const float *row, int64_t count, int fast, float scale_high, float scale_low, void *to,
                       int64_t plane_stride);
    /* Largest bit pattern of a magnitude, of each outer index in first .. last - 1. */
    void (*peaks)(const Source *source, int64_t first, int64_t last, int32_t *peak);
} TileLoops;

/* Bytes of one term of one plane. */
static inline int64_t ts_term_bytes(const TileLoops *loops) { return 4 * loops->step_entries / loops->step_terms; }

/* What is fastest for a profile, in the layouts above; and for whole matrices, which may have one of its own. */
const TileLoops *ts_tile_loops(int fast);
const TileLoops *ts_matrix_loops(int fast);

/* 5: AMX for matrices, 4: AVX-512 with VNNI, 3: AVX-512, 2: AVX2, 1: doubles with FMA, 0: portable. Limits what is used to
 * `level`, and returns what is in use then. */
int ts_limit_level(int level);

/* From peaks to units: 2^unit as double, 2^-unit as two floats; 0, or 1 if a peak is not finite. */
int ts_units(const int32_t *peak, int64_t count, int bits, double *unit, float *scale_high, float *scale_low);

#endif
