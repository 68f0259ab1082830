/* The exact product of two float32 matrices (products.py says what it is).
 *
 * Units come first, one pass over each operand. Then blocks that fit in the caches' larger levels: both operands are
 * rounded and split into panels in one pass, tiles of TILE_ROWS x TILE_LANES are multiplied, and each is put together,
 * scaled, rounded and written in one pass. Sums over more than BLOCK_TERMS terms wait in int64. */
#include <string.h>

#include "threads.h"
#include "tiles.h"
#include "workspace.h"

enum {
    BLOCK_BYTES = 8 << 20, /* panels of one operand */
    GROUP_BYTES = 1 << 19, /* left panels that one task keeps in the second cache */
    UNIT_OUTERS = 96, /* whole panels: a multiple of TILE_ROWS, DIGIT_ROWS and TILE_LANES */
    SMALL_PRODUCTS = 1 << 18 /* below, waking a thread costs more than it saves */
};

typedef struct {
    Source source;
    int lanes;             /* of a panel */
    int64_t block;         /* outer indices of a block of panels, a multiple of lanes */
    int64_t first, count;  /* outer indices in the block at hand */
    int64_t plane_stride, panel_stride;
    int32_t *peaks, *panels;
    double *unit;
    float *scale_high, *scale_low;
} Operand;

typedef struct {
    const TileLoops *loops;
    int fast, bits, bad, threads, one_block;
    Operand a, b;
    int64_t k, k_block, k0, k_count;
    int64_t group, groups, columns; /* of left panels in a task; of tasks; of right panels */
    int64_t *sums;
    int64_t sums_stride;
    float *result;
    int64_t result_stride;
    Phase *phases;
    int64_t phase_count;
} Product;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

/* Of a panel with so many terms. */
static int64_t steps_of(const Product *p, int64_t terms) {
    const int multiple = p->loops->step_multiple;
    return ceil_div(terms, p->loops->step_terms * multiple) * multiple;
}

static void plan_operand(Operand *o, Bump *bump, const Product *p) {
    const int planes = p->loops->planes[p->fast];
    const int64_t steps = steps_of(p, p->k_block);
    o->plane_stride = ceil_div(steps * o->lanes * p->loops->step_entries + SPILL, 16) * 16;
    o->panel_stride = planes * o->plane_stride;
    const int64_t panels = BLOCK_BYTES / (o->panel_stride * (int64_t)sizeof(int32_t));
    o->block = lesser(panels < 1 ? 1 : panels, ceil_div(o->source.outer, o->lanes)) * o->lanes;
    const size_t padded = (size_t)o->source.outer + TILE_LANES;
    o->peaks = ts_bump(bump, padded * sizeof(int32_t));
    o->unit = ts_bump(bump, padded * sizeof(double));
    o->scale_high = ts_bump(bump, padded * sizeof(float));
    o->scale_low = ts_bump(bump, padded * sizeof(float));
    o->panels = ts_bump(bump, (size_t)(o->block / o->lanes * o->panel_stride) * sizeof(int32_t));
    o->source.scale_high = o->scale_high;
    o->source.scale_low = o->scale_low;
}

/* Block sizes, and the places of everything in the workspace. */
static void plan(Product *p, Bump *bump) {
    const int64_t blocks = ceil_div(p->k, BLOCK_TERMS);
    p->k_block = 2 * ceil_div(p->k, 2 * blocks);
    plan_operand(&p->a, bump, p);
    plan_operand(&p->b, bump, p);
    p->sums_stride = p->b.block;
    p->sums = blocks > 1 ? ts_bump(bump, (size_t)(p->a.block * p->b.block) * sizeof(int64_t)) : NULL;
    p->one_block = blocks == 1 && p->a.block >= p->a.source.outer && p->b.block >= p->b.source.outer;
    p->k_count = p->k; /* for one block */
    const int64_t pairs = ceil_div(p->a.source.outer, p->a.block) * ceil_div(p->b.source.outer, p->b.block);
    p->phase_count = 1 + 2 * pairs * blocks;
    p->phases = ts_bump(bump, (size_t)p->phase_count * sizeof(Phase));
}

static void pack_panel(const Product *p, const Operand *o, int64_t i) {
    p->loops->pack(&o->source, p->fast, o->first + i * o->lanes, o->lanes, p->k0, p->k_count,
                   o->panels + i * o->panel_stride, o->plane_stride);
}

/* The units of some outer indices; and their panels, while the terms are in the cache, if there is one block only. */
static void operand_units(Product *p, Operand *o, int64_t i) {
    const int64_t first = i * UNIT_OUTERS, last = lesser(first + UNIT_OUTERS, o->source.outer);
    p->loops->peaks(&o->source, first, last, o->peaks);
    if (ts_units(o->peaks + first, last - first, p->bits, o->unit + first, o->scale_high + first, o->scale_low + first))
        __atomic_store_n(&p->bad, 1, __ATOMIC_RELAXED);
    if (!p->one_block) return;
    for (int64_t panel = first / o->lanes; panel * o->lanes < last; panel++) pack_panel(p, o, panel);
}

static void units_task(void *context, int64_t i) {
    Product *p = context;
    const int64_t left = ceil_div(p->a.source.outer, UNIT_OUTERS);
    if (i < left) {
        operand_units(p, &p->a, i);
    } else {
        operand_units(p, &p->b, i - left);
    }
}

static void pack_task(void *context, int64_t i) {
    const Product *p = context;
    const int64_t left = ceil_div(p->a.count, p->a.lanes);
    if (i < left) {
        pack_panel(p, &p->a, i);
    } else {
        pack_panel(p, &p->b, i - left);
    }
}

static void multiply_tile(const Product *p, int64_t row, int64_t column) {
    Tile tile;
    const int rows = (int)lesser(p->a.lanes, p->a.count - row), lanes = (int)lesser(TILE_LANES, p->b.count - column);
    const int32_t *a = p->a.panels + row / p->a.lanes * p->a.panel_stride;
    const int32_t *b = p->b.panels + column / TILE_LANES * p->b.panel_stride;
    const TileOperands operands = {p->fast, (int)steps_of(p, p->k_count), rows, lanes,
                                   {a, a + p->a.plane_stride, a + 2 * p->a.plane_stride}, NULL,
                                   {b, b + p->b.plane_stride, b + 2 * p->b.plane_stride}, NULL};
    p->loops->product(&operands, &tile);
    const double *row_unit = p->a.unit + p->a.first + row, *lane_unit = p->b.unit + p->b.first + column;
    float *result = p->result + (p->a.first + row) * p->result_stride + p->b.first + column;
    if (!p->sums) {
        p->loops->finish(&tile, p->fast, rows, lanes, row_unit, lane_unit, result, p->result_stride);
        return;
    }
    int64_t *sums = p->sums + row * p->sums_stride + column;
    if (p->k0 == 0)
        for (int r = 0; r < rows; r++) memset(sums + r * p->sums_stride, 0, TILE_LANES * sizeof(int64_t));
    p->loops->accumulate(&tile, p->fast, rows, lanes, sums, p->sums_stride);
    if (p->k0 + p->k_count == p->k)
        p->loops->finish_sums(sums, p->sums_stride, rows, lanes, row_unit, lane_unit, result, p->result_stride);
}

static void multiply_task(void *context, int64_t i) {
    const Product *p = context;
    const int64_t first = i / p->columns * p->group, column = i % p->columns * TILE_LANES;
    const int64_t last = lesser(first + p->group, ceil_div(p->a.count, p->a.lanes));
    if (p->loops->enter) p->loops->enter();
    for (int64_t panel = first; panel < last; panel++) multiply_tile(p, panel * p->a.lanes, column);
    if (p->loops->leave) p->loops->leave();
}

/* One block of the result over one block of terms; `p` is the thread's own copy. */
static void multiply_block(Product *p, Phase *phases) {
    const int64_t left = ceil_div(p->a.count, p->a.lanes);
    p->columns = ceil_div(p->b.count, TILE_LANES);
    const int64_t fitting = GROUP_BYTES / (p->a.panel_stride * (int64_t)sizeof(int32_t));
    const int64_t shared = ceil_div(left * p->columns, 4 * p->threads);
    p->group = lesser(fitting < 1 ? 1 : fitting, p->threads > 1 && shared < left ? shared : left);
    if (!p->one_block) ts_phase(phases, left + p->columns, pack_task, p);
    ts_phase(phases + 1, ceil_div(left, p->group) * p->columns, multiply_task, p);
}

static void multiply(void *context, int part, int parts) {
    Product *shared = context, own = *shared, *p = &own;
    (void)part, (void)parts;
    const int64_t m = p->a.source.outer, n = p->b.source.outer;
    ts_phase(p->phases, ceil_div(m, UNIT_OUTERS) + ceil_div(n, UNIT_OUTERS), units_task, shared);
    if (__atomic_load_n(&shared->bad, __ATOMIC_RELAXED)) return;
    Phase *phases = p->phases + 1;
    for (p->a.first = 0; p->a.first < m; p->a.first += p->a.block)
        for (p->b.first = 0; p->b.first < n; p->b.first += p->b.block)
            for (p->k0 = 0; p->k0 < p->k; p->k0 += p->k_block, phases += 2) {
                p->a.count = lesser(p->a.block, m - p->a.first);
                p->b.count = lesser(p->b.block, n - p->b.first);
                p->k_count = lesser(p->k_block, p->k - p->k0);
                multiply_block(p, phases);
            }
}

typedef struct {
    Product product; /* of the first matrices */
    int64_t count, a_stride, b_stride, result_stride;
    size_t bytes; /* of one workspace */
    char *workspace;
    int bad, next_workspace;
    Phase phase;
} Batch;

static void batch_task(Batch *batch, Product *p, int64_t i) {
    p->a.source.data = batch->product.a.source.data + i * batch->a_stride;
    p->b.source.data = batch->product.b.source.data + i * batch->b_stride;
    p->result = batch->product.result + i * batch->result_stride;
    p->bad = 0;
    memset(p->phases, 0, (size_t)p->phase_count * sizeof(Phase));
    ts_parallel(p->threads, multiply, p);
    if (p->bad) __atomic_store_n(&batch->bad, 1, __ATOMIC_RELAXED);
}

typedef struct {
    Batch *batch;
    Product product;
} BatchThread;

static void batch_thread_task(void *context, int64_t i) {
    BatchThread *thread = context;
    batch_task(thread->batch, &thread->product, i);
}

static void multiply_batch(void *context, int part, int parts) {
    Batch *batch = context;
    BatchThread own = {batch, batch->product};
    (void)part, (void)parts;
    const int place = __atomic_fetch_add(&batch->next_workspace, 1, __ATOMIC_RELAXED);
    Bump bump = {batch->workspace + (size_t)place * batch->bytes, 0};
    plan(&own.product, &bump);
    ts_phase(&batch->phase, batch->count, batch_thread_task, &own);
}

/* sizes: batch, M, K, N, none of them 0; strides in entries: of a by batch, row, column, then of b.
 * Returns 0; 1 if an operand is not finite; 2 if there is no memory. */
int ts_matmul(const int64_t *sizes, const int64_t *strides, const float *a, const float *b, float *result, int bits,
              int threads) {
    const int64_t count = sizes[0], m = sizes[1], k = sizes[2], n = sizes[3];
    Batch batch = {.count = count, .a_stride = strides[0], .b_stride = strides[3], .result_stride = m * n};
    Product *p = &batch.product;
    p->bits = bits;
    p->fast = bits <= 13;
    p->loops = ts_matrix_loops(p->fast);
    p->k = k;
    p->result = result;
    p->result_stride = n;
    p->a.lanes = p->loops->rows;
    p->b.lanes = TILE_LANES;
    p->a.source = (Source){a, m, k, strides[1], strides[2], NULL, NULL};
    p->b.source = (Source){b, n, k, strides[5], strides[4], NULL, NULL};
    if ((double)count * (double)m * (double)k * (double)n < SMALL_PRODUCTS) threads = 1;
    Bump bump = {NULL, 0};
    plan(p, &bump);
    batch.bytes = bump.used;
    const int by_matrix = count > 1 && (threads == 1 || (count >= threads && batch.bytes <= GROUP_BYTES * 4));
    p->threads = by_matrix ? 1 : threads;
    const int workspaces = by_matrix ? threads : 1;
    batch.workspace = ts_workspace_take(batch.bytes * (size_t)workspaces);
    if (!batch.workspace) return 2;
    if (by_matrix) {
        ts_parallel(threads, multiply_batch, &batch);
    } else {
        bump = (Bump){batch.workspace, 0};
        plan(p, &bump);
        Product first = *p;
        for (int64_t i = 0; i < count; i++) batch_task(&batch, &first, i);
    }
    ts_workspace_give(batch.workspace);
    return batch.bad;
}
