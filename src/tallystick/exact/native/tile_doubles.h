/* The loops of tiles.h on doubles, by fused multiply-add: included by tile_loops.h, whose names it uses. An entry is one
 * double in one plane, whatever the profile; a step holds one term of it. Sums of BLOCK_TERMS products stay below
 * 2016 * 2^40 < 2^53, so they are exact.
 *
 * Before it is included: TS_FMA(a, b, c), TS_DOUBLE (a vector of TS_WIDTH / 2 doubles), TS_DOUBLE_LOAD, TS_DOUBLE_STORE,
 * TS_DOUBLE_SPREAD, TS_DOUBLE_ZERO; a block has TS_ROWS rows and two vectors. */

/* `table_a` and `table_b` say how the operand is laid out (TileOperands). */
TS_INLINE void TS_NAME(run_doubles)(const int rows, const int table_a, const int table_b, const TileOperands *o,
                                    int row0, int lane0, Tile *tile) {
    TS_DOUBLE sums[TS_ROWS][2];
    const double *from[TS_ROWS];
    const double *a = (const double *)(const void *)o->a[0] + row0, *b = (const double *)(const void *)o->b[0] + lane0;
    for (int r = 0; r < rows; r++) {
        if (table_a) from[r] = (const double *)(const void *)((const char *)o->a[0] + o->a_rows[row0 + r]);
        for (int v = 0; v < 2; v++) sums[r][v] = TS_DOUBLE_ZERO();
    }
    for (int t = 0; t < o->steps; t++) {
        const double *bt = table_b ? (const double *)(const void *)(o->b[0] + o->b_steps[t]) + lane0
                                   : b + (int64_t)t * TILE_LANES;
        const TS_DOUBLE b0 = TS_DOUBLE_LOAD(bt), b1 = TS_DOUBLE_LOAD(bt + TS_WIDTH / 2);
        if (!table_b) { /* the panel does not stay in the first cache, and only half of each step is read at a time */
            __builtin_prefetch(bt + 8 * TILE_LANES);
            __builtin_prefetch(bt + 8 * TILE_LANES + 8);
        }
        for (int r = 0; r < rows; r++) {
            const TS_DOUBLE av = TS_DOUBLE_SPREAD(table_a ? from[r] + t : a + (int64_t)t * TILE_ROWS + r);
            sums[r][0] = TS_FMA(av, b0, sums[r][0]);
            sums[r][1] = TS_FMA(av, b1, sums[r][1]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++) TS_DOUBLE_STORE(&tile->sum[row0 + r][lane0 + v * TS_WIDTH / 2], sums[r][v]);
}

/* One function for each size and layout, so that the sums stay in registers. */
#define TS_RUN_DOUBLES(rows, ta, tb)                                                                                 \
    TS_TARGET static __attribute__((noinline)) void TS_NAME(doubles_##rows##_##ta##tb)(                              \
        const TileOperands *o, int row0, int lane0, Tile *tile) {                                                    \
        TS_NAME(run_doubles)(rows, ta, tb, o, row0, lane0, tile);                                                    \
    }
#define TS_RUNS_DOUBLES(rows) TS_RUN_DOUBLES(rows, 0, 0) TS_RUN_DOUBLES(rows, 0, 1) TS_RUN_DOUBLES(rows, 1, 0)
#define TS_DOUBLES_NAMES(rows)                                                                                       \
    { TS_NAME(doubles_##rows##_00), TS_NAME(doubles_##rows##_01), TS_NAME(doubles_##rows##_10) }
typedef void (*TS_NAME(RunDoubles))(const TileOperands *, int, int, Tile *);

TS_RUNS_DOUBLES(1)
TS_RUNS_DOUBLES(2)
TS_RUNS_DOUBLES(4)
TS_RUNS_DOUBLES(6)
#if TS_ROWS == 12
TS_RUNS_DOUBLES(8)
TS_RUNS_DOUBLES(12)
#endif
static const TS_NAME(RunDoubles) TS_NAME(runs_doubles)[][3] = {
    TS_DOUBLES_NAMES(1),  TS_DOUBLES_NAMES(2), TS_DOUBLES_NAMES(4), TS_DOUBLES_NAMES(6),
#if TS_ROWS == 12
    TS_DOUBLES_NAMES(8), TS_DOUBLES_NAMES(12),
#endif
};

TS_TARGET static void TS_NAME(product_doubles)(const TileOperands *o, Tile *tile) {
    const int layout = o->a_rows ? 2 : o->b_steps ? 1 : 0;
    for (int row = 0; row < o->rows;) {
        const int left = o->rows - row, size = TS_NAME(size_of)[left < TS_ROWS ? left : TS_ROWS];
        for (int lane = 0; lane < o->lanes; lane += TS_WIDTH)
            TS_NAME(runs_doubles)[size][layout](o, row, lane, tile);
        row += TS_NAME(rows_of)[size];
    }
}

TS_TARGET static void TS_NAME(finish_doubles)(const Tile *tile, int fast, int rows, int lanes, const double *row_unit,
                                              const double *lane_unit, float *result, int64_t stride) {
    (void)fast;
    for (int r = 0; r < rows; r++) {
        float *to = result + r * stride;
        for (int l = 0; l < lanes; l += 8) {
            const TS_NAME(Doubles) wide = *(const TS_NAME(Doubles) *)&tile->sum[r][l];
            TS_ROW(wide, l);
        }
    }
}

TS_TARGET static void TS_NAME(accumulate_doubles)(const Tile *tile, int fast, int rows, int lanes, int64_t *sums,
                                                  int64_t stride) {
    (void)fast;
    for (int r = 0; r < rows; r++) {
        int64_t *to = sums + r * stride;
        int l = 0;
        for (; l + 8 <= lanes; l += 8) {
            const TS_NAME(Doubles) wide = *(const TS_NAME(Doubles) *)&tile->sum[r][l];
            *(TS_NAME(Longs) *)(to + l) += __builtin_convertvector(wide, TS_NAME(Longs));
        }
        for (; l < lanes; l++) to[l] += (int64_t)tile->sum[r][l]; /* beyond a convolution's grid there is anything */
    }
}

/* Eight entries rounded to integers. Adding 1.5 * 2^23 rounds to the nearest one, ties to even. */
#define TS_WHOLE(x, high, low) __builtin_convertvector((x) * (high) * (low) + 12582912.0f - 12582912.0f, TS_NAME(Doubles))

/* Steps of 16 lanes from rows of `from`, in this order: where a step has fewer lanes, the next one is written over it. */
TS_INLINE void TS_NAME(widen)(const float *from, int64_t stride, int64_t steps, const float *scale_high,
                              const float *scale_low, int lanes, double *to) {
    const TS_NAME(HalfFloats) *high = (const TS_NAME(HalfFloats) *)scale_high;
    const TS_NAME(HalfFloats) *low = (const TS_NAME(HalfFloats) *)scale_low;
    const TS_NAME(HalfFloats) high0 = high[0], high1 = high[1], low0 = low[0], low1 = low[1];
    for (int64_t t = 0; t < steps; t++, from += stride, to += lanes) {
        const TS_NAME(HalfFloats) *x = (const TS_NAME(HalfFloats) *)from;
        ((TS_NAME(Doubles) *)to)[0] = TS_WHOLE(x[0], high0, low0);
        ((TS_NAME(Doubles) *)to)[1] = TS_WHOLE(x[1], high1, low1);
    }
}

TS_TARGET static void TS_NAME(pack_doubles)(const Source *s, int fast, int64_t first, int lanes, int64_t k0,
                                            int64_t count, int32_t *panel, int64_t plane_stride) {
    float block[32][16] __attribute__((aligned(64)));
    (void)fast, (void)plane_stride;
    for (int lane = 0; lane < lanes; lane += 16) {
        const int64_t outer0 = first + lane;
        if (outer0 >= s->outer) break; /* nobody reads what these lanes give */
        float scale_high[16], scale_low[16];
        TS_NAME(scales)(s, outer0, lanes - lane, scale_high, scale_low);
        for (int64_t k = 0; k < count; k += 32) {
            const int64_t terms = count - k < 32 ? count - k : 32;
            int64_t stride;
            const float *from = TS_NAME(rows_from)(s, outer0, k0 + k, terms, 1, block, &stride);
            double *to = (double *)(void *)panel + k * lanes + lane;
            TS_NAME(widen)(from, stride, terms, scale_high, scale_low, lanes, to);
        }
    }
}

TS_TARGET static void TS_NAME(single_row_doubles)(const float *row, int64_t count, int fast, float scale_high,
                                                  float scale_low, void *to, int64_t plane_stride) {
    double *place = to;
    (void)fast, (void)plane_stride;
    for (int64_t i = 0; i < count; i += 8) {
        const TS_NAME(HalfFloats) x = *(const TS_NAME(HalfFloats) *)(row + i);
        *(TS_NAME(Doubles) *)(place + i) = TS_WHOLE(x, scale_high, scale_low);
    }
}

TS_TARGET static void TS_NAME(pair_rows_doubles)(const float *even, const float *odd, int64_t count, int fast,
                                                 float scale_high, float scale_low, int32_t *to,
                                                 int64_t plane_stride) {
    (void)odd;
    TS_NAME(single_row_doubles)(even, count, fast, scale_high, scale_low, to, plane_stride);
}

static const TileLoops TS_NAME(doubles) = {
    .rows = TILE_ROWS,
    .planes = {1, 1},
    .step_terms = 1,
    .step_entries = 2,
    .step_multiple = 1,
    .product = TS_NAME(product_doubles),
    .finish = TS_NAME(finish_doubles),
    .accumulate = TS_NAME(accumulate_doubles),
    .finish_sums = TS_NAME(finish_sums),
    .pack = TS_NAME(pack_doubles),
    .pair_rows = TS_NAME(pair_rows_doubles),
    .single_row = TS_NAME(single_row_doubles),
    .peaks = TS_NAME(peaks),
};

#undef TS_RUN_DOUBLES
#undef TS_RUNS_DOUBLES
#undef TS_DOUBLES_NAMES
#undef TS_WHOLE
