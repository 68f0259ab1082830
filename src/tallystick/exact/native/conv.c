/* Convolution and the gradient of its input: both multiply packed weights by grids (conv.h).
 *
 * The gradient of the input is itself such a product: inputs whose coordinates have one residue modulo the stride (a
 * pass) see the output's gradient at offsets that are the same for all of them. */
#include "conv.h"

#include <stdlib.h>
#include <string.h>

#include "threads.h"

enum { SMALL_PRODUCTS = 1 << 18 }; /* as in gemm.c */

/* Results at grid indices (first + i, first + j), i < count[Y], j < count[X]; they are entries base + i * step of the
 * result. */
typedef struct {
    int64_t taps, steps;
    int64_t first[AXES], count[AXES], base[AXES], step[AXES];
    int32_t *tap;     /* which entries of a kernel */
    int32_t *b_steps; /* offset of each step in the grids */
    int32_t *panels;
    int64_t plane_stride;
} Pass;

typedef struct {
    const TileLoops *loops;
    int fast, bits, planes, bad, next_place;
    Grid grid;
    int64_t samples, groups, inputs, outputs;        /* channels of one group, before and after */
    int64_t channel_steps;                           /* steps that hold a group's inputs, for each tap */
    int64_t result[AXES];                            /* its size */
    int64_t taps, weight_row, weight_input;          /* weights from one output, and one input, to the next */
    int64_t panels, panel_rows;                      /* of one group; of one panel, at most TILE_ROWS */
    int64_t row_count;                               /* of units for one group */
    int64_t passes;
    Pass *pass;
    const float *from, *weight;
    float *to;
    int32_t *peak, *weight_peak;
    double *unit, *weight_unit;
    float *high, *low, *weight_high, *weight_low;
    Phase *phases;
    int64_t thread_bytes, grid_stride;
    char *thread_memory;
} Correlation;

/* ---- units and packed weights ---- */

static void sample_units(Correlation *c, int64_t n) {
    const int64_t entries = c->groups * c->inputs * c->grid.size[Y] * c->grid.size[X];
    const Source source = {c->from + n * entries, 1, entries, entries, 1, NULL, NULL};
    c->loops->peaks(&source, 0, 1, c->peak + n);
    if (ts_units(c->peak + n, 1, c->bits, c->unit + n, c->high + n, c->low + n))
        __atomic_store_n(&c->bad, 1, __ATOMIC_RELAXED);
}

/* Weights of one row: from input q and tap t at q * weight_input + t. */
static int32_t row_peak(const Correlation *c, const float *row) {
    int32_t largest = 0, one;
    for (int64_t q = 0; q < c->inputs; q++) {
        const Source source = {row + q * c->weight_input, 1, c->taps, c->taps, 1, NULL, NULL};
        c->loops->peaks(&source, 0, 1, &one);
        largest = largest < one ? one : largest;
    }
    return largest;
}

/* Terms of one row in the order of the steps: by inputs that share steps, then taps, then the inputs of a step. */
static void order_row(const Correlation *c, const Pass *pass, const float *row, float *to) {
    const int64_t terms = c->loops->step_terms;
    for (int64_t q = 0; q < c->channel_steps * terms; q++)
        for (int64_t t = 0; t < pass->taps; t++)
            to[(q / terms * pass->taps + t) * terms + q % terms] =
                q < c->inputs ? row[q * c->weight_input + pass->tap[t]] : 0.0f;
}

static void pack_weights(Correlation *c, int64_t index, float *ordered) {
    const int64_t group = index / c->panels, panel = index % c->panels, first = panel * c->panel_rows;
    const int64_t rows = lesser(c->panel_rows, c->outputs - first), unit = group * c->row_count + first;
    const float *weight = c->weight + group * c->inputs * c->outputs * c->taps + first * c->weight_row;
    for (int64_t r = 0; r < rows; r++) c->weight_peak[unit + r] = row_peak(c, weight + r * c->weight_row);
    if (ts_units(c->weight_peak + unit, rows, c->bits, c->weight_unit + unit, c->weight_high + unit,
                 c->weight_low + unit))
        __atomic_store_n(&c->bad, 1, __ATOMIC_RELAXED);
    for (int64_t i = 0; i < c->passes; i++) {
        const Pass *pass = c->pass + i;
        const int64_t terms = c->loops->step_terms * pass->steps;
        for (int64_t r = 0; r < rows; r++) order_row(c, pass, weight + r * c->weight_row, ordered + r * terms);
        const Source source = {ordered, rows, terms, terms, 1, c->weight_high + unit, c->weight_low + unit};
        int32_t *to = pass->panels + index * c->planes * pass->plane_stride;
        c->loops->pack(&source, c->fast, 0, TILE_ROWS, 0, terms, to, pass->plane_stride);
    }
}

/* ---- one sample ---- */

/* Lanes of a tile to the rows of the result that they lie in. */
static void scatter(const Correlation *c, const Pass *pass, const float (*values)[TILE_LANES], int64_t rows,
                    int64_t lane, int64_t lanes, float *to) {
    const int64_t width = c->grid.width, area = c->result[Y] * c->result[X], step = pass->step[X];
    while (lanes > 0) {
        const int64_t i = lane / width, j = lane % width, run = lesser(lanes, width - j);
        const int64_t kept = lesser(run, pass->count[X] - j);
        float *place = to + (pass->base[Y] + i * pass->step[Y]) * c->result[X] + pass->base[X] + j * step;
        for (int64_t r = 0; r < rows && kept > 0; r++)
            for (int64_t l = 0; l < kept; l++) place[r * area + l * step] = values[r][l];
        values = (const float(*)[TILE_LANES])((const float *)values + run);
        lane += run;
        lanes -= run;
    }
}

static void compute_tile(const Correlation *c, const Pass *pass, const int32_t *const grids[PLANES],
                         const int32_t *panel, int rows, int lanes, const double *row_unit, const double *lane_unit,
                         float (*values)[TILE_LANES]) {
    Tile tile;
    int64_t sums[TILE_ROWS][TILE_LANES] __attribute__((aligned(64)));
    TileOperands o = {c->fast, 0, rows, lanes, {NULL}, NULL, {grids[0], grids[1], grids[2]}, NULL};
    const int several = pass->steps > BLOCK_STEPS;
    if (several) memset(sums, 0, sizeof sums);
    for (int64_t start = 0; start < pass->steps || start == 0; start += BLOCK_STEPS) {
        o.steps = (int)lesser(BLOCK_STEPS, pass->steps - start);
        o.b_steps = pass->b_steps + start;
        for (int p = 0; p < PLANES; p++)
            o.a[p] = panel + p * pass->plane_stride + start * TILE_ROWS * c->loops->step_entries;
        c->loops->product(&o, &tile);
        if (several) c->loops->accumulate(&tile, c->fast, rows, lanes, sums[0], TILE_LANES);
    }
    if (several) {
        c->loops->finish_sums(sums[0], TILE_LANES, rows, lanes, row_unit, lane_unit, values[0], TILE_LANES);
    } else {
        c->loops->finish(&tile, c->fast, rows, lanes, row_unit, lane_unit, values[0], TILE_LANES);
    }
}

static void run_pass(const Correlation *c, const Pass *pass, int64_t n, int64_t group, const int32_t *grids) {
    const int64_t area = c->result[Y] * c->result[X], width = c->grid.width;
    const int64_t lanes = pass->count[Y] > 0 ? (pass->count[Y] - 1) * width + pass->count[X] : 0;
    const int64_t origin = pass->first[Y] * width + pass->first[X];
    float values[TILE_ROWS][TILE_LANES] __attribute__((aligned(64)));
    double lane_unit[TILE_LANES];
    for (int l = 0; l < TILE_LANES; l++) lane_unit[l] = c->unit[n];
    for (int64_t lane = 0; lane < lanes; lane += TILE_LANES)
        for (int64_t p = 0; p < c->panels; p++) {
            const int rows = (int)lesser(c->panel_rows, c->outputs - p * c->panel_rows);
            const int wide = (int)lesser(TILE_LANES, lanes - lane);
            const int32_t *at[PLANES];
            for (int i = 0; i < PLANES; i++)
                at[i] = grids + i * c->grid_stride + (origin + lane) * c->loops->step_entries;
            const int64_t index = group * c->panels + p;
            const int32_t *panel = pass->panels + index * c->planes * pass->plane_stride;
            const double *row_unit = c->weight_unit + group * c->row_count + p * c->panel_rows;
            compute_tile(c, pass, at, panel, rows, wide, row_unit, lane_unit, values);
            const int64_t output = (n * c->groups + group) * c->outputs + p * c->panel_rows;
            scatter(c, pass, (const float(*)[TILE_LANES])values, rows, lane, wide, c->to + output * area);
        }
}

/* A thread's own memory: two channels as floats, then all channels of a group, split, in pairs. */
typedef struct {
    Correlation *c;
    float *channels;
    int32_t *grids;
} Thread;

static void run_sample(void *context, int64_t n) {
    const Thread *thread = context;
    const Correlation *c = thread->c;
    const int64_t area = c->grid.size[Y] * c->grid.size[X], entries = c->grid.entries, space = ceil_div(entries, 16) * 16;
    float *even = thread->channels, *odd = even + space;
    memset(even, 0, (size_t)(2 * space) * sizeof(float));
    for (int64_t group = 0; group < c->groups; group++) {
        const float *from = c->from + (n * c->groups + group) * c->inputs * area;
        for (int64_t step = 0; step < c->channel_steps; step++) {
            const int64_t q = step * c->loops->step_terms;
            ts_fill(&c->grid, from + q * area, even, c->grid.phase_entries);
            if (c->loops->step_terms == 1) {
                /* there is no other */
            } else if (q + 1 < c->inputs) {
                ts_fill(&c->grid, from + (q + 1) * area, odd, c->grid.phase_entries);
            } else {
                memset(odd, 0, (size_t)entries * sizeof(float));
            }
            c->loops->pair_rows(even, odd, entries, c->fast, c->high[n], c->low[n],
                                thread->grids + step * entries * c->loops->step_entries, c->grid_stride);
        }
        for (int64_t i = 0; i < c->passes; i++) run_pass(c, c->pass + i, n, group, thread->grids);
    }
}

static void first_task(void *context, int64_t i) {
    const Thread *thread = context;
    if (i < thread->c->samples) {
        sample_units(thread->c, i);
    } else {
        pack_weights(thread->c, i - thread->c->samples, (float *)(void *)thread->grids);
    }
}

static void run(void *context, int part, int parts) {
    Correlation *c = context;
    (void)part, (void)parts;
    const int place = __atomic_fetch_add(&c->next_place, 1, __ATOMIC_RELAXED);
    char *memory = c->thread_memory + place * c->thread_bytes;
    const int64_t space = ceil_div(c->grid.entries, 16) * 16;
    Thread thread = {c, (float *)(void *)memory, (int32_t *)(void *)memory + 2 * space};
    ts_phase(c->phases, c->samples + c->groups * c->panels, first_task, &thread);
    if (__atomic_load_n(&c->bad, __ATOMIC_RELAXED)) return;
    ts_phase(c->phases + 1, c->samples, run_sample, &thread);
}

/* ---- memory ---- */

static void plan(Correlation *c, int threads, Bump *bump) {
    const size_t samples = (size_t)c->samples, rows = (size_t)(c->groups * c->row_count + TILE_LANES);
    c->phases = ts_bump(bump, 2 * sizeof(Phase));
    c->peak = ts_bump(bump, samples * sizeof(int32_t));
    c->unit = ts_bump(bump, samples * sizeof(double));
    c->high = ts_bump(bump, samples * sizeof(float));
    c->low = ts_bump(bump, samples * sizeof(float));
    c->weight_peak = ts_bump(bump, rows * sizeof(int32_t));
    c->weight_unit = ts_bump(bump, rows * sizeof(double));
    c->weight_high = ts_bump(bump, rows * sizeof(float));
    c->weight_low = ts_bump(bump, rows * sizeof(float));
    c->grid_stride = ceil_div((c->channel_steps * c->grid.entries + 2 * TILE_LANES) * c->loops->step_entries, 16) * 16;
    const int64_t ordered = TILE_ROWS * c->loops->step_terms * c->channel_steps * c->taps;
    const int64_t grids = greater(c->planes * c->grid_stride, ordered);
    c->thread_bytes = ceil_div((2 * ceil_div(c->grid.entries, 16) * 16 + grids) * 4, 64) * 64;
    c->thread_memory = ts_bump(bump, (size_t)(c->thread_bytes * threads));
}

static void plan_pass(Correlation *c, Pass *pass, Bump *bump) {
    pass->steps = c->channel_steps * pass->taps;
    pass->plane_stride = ceil_div(pass->steps * TILE_ROWS * c->loops->step_entries + SPILL, 16) * 16;
    pass->b_steps = ts_bump(bump, (size_t)(pass->steps + 1) * sizeof(int32_t));
    pass->panels = ts_bump(bump, (size_t)(c->groups * c->panels * c->planes * pass->plane_stride) * 4);
}

/* Given the grid offsets of its taps in b_steps[0 .. taps - 1], the offsets of all steps. */
static void spread_steps(const Correlation *c, Pass *pass) {
    for (int64_t step = c->channel_steps - 1; step >= 0; step--)
        for (int64_t t = 0; t < pass->taps; t++)
            pass->b_steps[step * pass->taps + t] =
                (pass->b_steps[t] + (int32_t)(step * c->grid.entries)) * c->loops->step_entries;
}

/* Fills in the tables of a pass whose sizes are known. */
typedef void (*Tables)(const Convolution *g, const Correlation *c, int64_t index, Pass *pass);

static int correlate(const Convolution *g, Correlation *c, Tables tables) {
    c->bits = g->bits;
    c->fast = g->bits <= 13;
    c->loops = ts_tile_loops(c->fast);
    c->planes = c->loops->planes[c->fast];
    c->samples = g->samples;
    c->groups = g->groups;
    c->taps = g->kernel[Y] * g->kernel[X];
    c->channel_steps = ceil_div(c->inputs, c->loops->step_terms);
    c->panels = ceil_div(c->outputs, TILE_ROWS);
    c->panel_rows = ceil_div(c->outputs, c->panels);
    c->panel_rows += c->panel_rows > 1 && c->panel_rows < 8 ? c->panel_rows % 2 : 0;
    c->row_count = c->panels * TILE_ROWS;
    const double work = (double)(c->samples * c->groups * c->outputs * c->inputs) * (double)(c->taps * c->grid.entries);
    const int threads = work < SMALL_PRODUCTS ? 1 : (int)lesser(g->threads, greater(c->samples, 1));
    Bump bump = {NULL, 0};
    for (int round = 0; round < 2; round++) {
        plan(c, threads, &bump);
        for (int64_t i = 0; i < c->passes; i++) plan_pass(c, c->pass + i, &bump);
        if (round == 1) break;
        bump = (Bump){ts_workspace_take(bump.used), 0};
        if (!bump.base) return 2;
    }
    for (int64_t i = 0; i < c->passes; i++) {
        tables(g, c, i, c->pass + i);
        spread_steps(c, c->pass + i);
    }
    memset(c->phases, 0, 2 * sizeof(Phase));
    ts_parallel(threads, run, c);
    ts_workspace_give(bump.base);
    return c->bad;
}

/* ---- forward ---- */

static void forward_tables(const Convolution *g, const Correlation *c, int64_t index, Pass *pass) {
    (void)index;
    for (int64_t t = 0; t < pass->taps; t++) {
        const int64_t y = t / g->kernel[X] * g->dilation[Y], x = t % g->kernel[X] * g->dilation[X];
        const int64_t phase = y % g->stride[Y] * g->stride[X] + x % g->stride[X];
        pass->tap[t] = (int32_t)t;
        pass->b_steps[t] = (int32_t)(phase * c->grid.phase_entries + y / g->stride[Y] * c->grid.width +
                                     x / g->stride[X]);
    }
}

/* numbers: see ts_convolution_of. `result` has the output's shape. Returns 0; 1 if an operand is not finite; 2 if there
 * is no memory. */
int ts_convolution(const int64_t *numbers, const float *input, const float *weight, float *result) {
    const Convolution g = ts_convolution_of(numbers);
    int64_t reach[AXES];
    Pass pass = {.taps = g.kernel[Y] * g.kernel[X], .step = {1, 1}};
    for (int axis = 0; axis < AXES; axis++) {
        reach[axis] = (g.kernel[axis] - 1) * g.dilation[axis] / g.stride[axis];
        pass.count[axis] = g.output[axis];
    }
    Correlation c = {.from = input, .weight = weight, .to = result, .inputs = g.channels, .outputs = g.outputs};
    c.grid = ts_grid(g.size, g.stride, g.padding, g.output, reach, 0);
    memcpy(c.result, g.output, sizeof g.output);
    c.weight_row = g.channels * pass.taps;
    c.weight_input = pass.taps;
    c.passes = 1;
    c.pass = &pass;
    pass.tap = malloc((size_t)pass.taps * sizeof(int32_t));
    const int status = pass.tap ? correlate(&g, &c, forward_tables) : 2;
    free(pass.tap);
    return status;
}

/* ---- gradient of the input ---- */

/* Along one axis, input y = Y * stride + residue - padding sees the output's gradient at Y - tap * dilation / stride,
 * for taps with tap * dilation = residue modulo stride. */
static int64_t first_of(const Convolution *g, int axis, int64_t residue) {
    const int64_t above = g->padding[axis] - residue;
    return above <= 0 ? 0 : ceil_div(above, g->stride[axis]);
}

static int64_t lowest_of(const Convolution *g, int axis) { return first_of(g, axis, g->stride[axis] - 1); }

static int64_t reach_of(const Convolution *g, int axis) {
    return (g->kernel[axis] - 1) * g->dilation[axis] / g->stride[axis];
}

static int sees(const Convolution *g, int axis, int64_t tap, int64_t residue) {
    return tap * g->dilation[axis] % g->stride[axis] == residue;
}

static void backward_tables(const Convolution *g, const Correlation *c, int64_t index, Pass *pass) {
    const int64_t residue[AXES] = {index / g->stride[X], index % g->stride[X]};
    int64_t count = 0;
    for (int64_t t = 0; t < c->taps; t++) {
        const int64_t y = t / g->kernel[X], x = t % g->kernel[X];
        if (!sees(g, Y, y, residue[Y]) || !sees(g, X, x, residue[X])) continue;
        const int64_t down = reach_of(g, Y) - y * g->dilation[Y] / g->stride[Y];
        const int64_t right = reach_of(g, X) - x * g->dilation[X] / g->stride[X];
        pass->tap[count] = (int32_t)t;
        pass->b_steps[count++] = (int32_t)(down * c->grid.width + right);
    }
}

static void backward_sizes(const Convolution *g, int64_t index, Pass *pass) {
    const int64_t residue[AXES] = {index / g->stride[X], index % g->stride[X]};
    int64_t seen[AXES] = {0, 0};
    for (int axis = 0; axis < AXES; axis++) {
        const int64_t first = first_of(g, axis, residue[axis]), stride = g->stride[axis];
        const int64_t last = g->size[axis] - 1 + g->padding[axis] - residue[axis];
        pass->first[axis] = first - lowest_of(g, axis);
        pass->count[axis] = last < 0 ? 0 : greater(0, last / stride - first + 1);
        pass->base[axis] = first * stride + residue[axis] - g->padding[axis];
        pass->step[axis] = stride;
        for (int64_t t = 0; t < g->kernel[axis]; t++) seen[axis] += sees(g, axis, t, residue[axis]);
    }
    pass->taps = seen[Y] * seen[X];
}

int ts_convolution_grad_input(const int64_t *numbers, const float *gradient, const float *weight, float *result) {
    const Convolution g = ts_convolution_of(numbers);
    const int64_t one[AXES] = {1, 1};
    int64_t reach[AXES], before[AXES], count[AXES];
    for (int axis = 0; axis < AXES; axis++) {
        reach[axis] = reach_of(&g, axis);
        before[axis] = reach[axis] - lowest_of(&g, axis);
        count[axis] = (g.size[axis] - 1 + g.padding[axis]) / g.stride[axis] - lowest_of(&g, axis) + 1;
    }
    Correlation c = {.from = gradient, .weight = weight, .to = result, .inputs = g.outputs, .outputs = g.channels};
    c.grid = ts_grid(g.output, one, before, count, reach, 0);
    memcpy(c.result, g.size, sizeof g.size);
    const int64_t taps = g.kernel[Y] * g.kernel[X];
    c.weight_row = taps;
    c.weight_input = g.channels * taps;
    c.passes = g.stride[Y] * g.stride[X];
    c.pass = calloc((size_t)c.passes, sizeof(Pass) + (size_t)taps * sizeof(int32_t));
    if (!c.pass) return 2;
    for (int64_t i = 0; i < c.passes; i++) {
        c.pass[i].tap = (int32_t *)(c.pass + c.passes) + i * taps;
        backward_sizes(&g, i, c.pass + i);
    }
    const int status = correlate(&g, &c, backward_tables);
    free(c.pass);
    return status;
}
