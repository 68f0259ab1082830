/* The gradient of a convolution's weight: each entry is a sum over samples and pixels.
 *
 * Several samples lie one after the other on grids (conv.h). An input's pixels are the left operand of all taps without
 * being copied: a tap only starts elsewhere. The output's gradient, zero wherever the grid holds no output, is packed as
 * the right operand. A thread adds up its samples in int64; the threads' sums are added at the end.
 */
#include <string.h>

#include "conv.h"
#include "threads.h"

enum { TERMS_AT_ONCE = 8192, BYTES_AT_ONCE = 4 << 20 };

typedef struct {
    const TileLoops *loops;
    const Convolution *g;
    int fast, planes, bad, next_place;
    Grid grid;
    int64_t at_once, tasks; /* samples */
    int64_t taps, rows, lanes_padded; /* of one group: entries of the left operand, of the right one padded */
    int64_t sample_terms, terms;      /* grid indices of one sample, of all samples at once */
    const float *gradient, *input;
    float *result;
    int32_t *peak_input, *peak_gradient;
    double *unit_input, *unit_gradient;
    float *high_input, *low_input, *high_gradient, *low_gradient;
    Phase *phases;
    int64_t sums_count;
    int64_t *sums; /* of each thread: [group][row][lane] */
    int64_t term_bytes; /* of the left operand */
    int64_t channel_stride, plane_stride, panel_stride, right_stride, thread_bytes;
    char *thread_memory;
} WeightGradient;

typedef struct {
    WeightGradient *w;
    int64_t *sums;
    float *channel, *right; /* one input channel's grids, TILE_LANES channels of the gradient */
    char *left;             /* planes of a group's input */
    int32_t *panel;
    int32_t *rows;
} Thread;

/* Units of one channel, over all samples. */
static void channel_units(WeightGradient *w, const float *data, int64_t channels, int64_t area, int64_t channel,
                          int32_t *peak, double *unit, float *high, float *low) {
    int32_t largest = 0, one;
    for (int64_t n = 0; n < w->g->samples; n++) {
        const Source source = {data + (n * channels + channel) * area, 1, area, area, 1, NULL, NULL};
        w->loops->peaks(&source, 0, 1, &one);
        largest = largest < one ? one : largest;
    }
    peak[channel] = largest;
    if (ts_units(peak + channel, 1, w->g->bits, unit + channel, high + channel, low + channel))
        __atomic_store_n(&w->bad, 1, __ATOMIC_RELAXED);
}

static void units_task(void *context, int64_t i) {
    WeightGradient *w = context;
    const Convolution *g = w->g;
    const int64_t channels = g->groups * g->channels, outputs = g->groups * g->outputs;
    if (i < channels) {
        channel_units(w, w->input, channels, g->size[Y] * g->size[X], i, w->peak_input, w->unit_input, w->high_input,
                      w->low_input);
    } else {
        channel_units(w, w->gradient, outputs, g->output[Y] * g->output[X], i - channels, w->peak_gradient,
                      w->unit_gradient, w->high_gradient, w->low_gradient);
    }
}

static void lay_left(const Thread *t, int64_t first, int64_t samples, int64_t channel) {
    const WeightGradient *w = t->w;
    const Convolution *g = w->g;
    const int64_t area = g->size[Y] * g->size[X], phases = g->stride[Y] * g->stride[X];
    const int64_t all = g->groups * g->channels, phase_stride = w->channel_stride / phases;
    memset(t->channel, 0, (size_t)w->channel_stride * sizeof(float));
    for (int64_t n = 0; n < samples; n++)
        ts_fill(&w->grid, w->input + ((first + n) * all + channel) * area, t->channel + n * w->sample_terms,
                phase_stride);
    w->loops->single_row(t->channel, w->channel_stride, w->fast, w->high_input[channel], w->low_input[channel],
                         t->left + channel % g->channels * w->channel_stride * w->term_bytes, w->plane_stride);
}

/* The gradient of outputs first_output .. + lanes - 1 of all samples, as rows of one term for each grid index. */
static void lay_right(const Thread *t, int64_t first, int64_t samples, int64_t output, int64_t lanes) {
    const WeightGradient *w = t->w;
    const Convolution *g = w->g;
    const int64_t height = g->output[Y], width = g->output[X], all = g->groups * g->outputs;
    memset(t->right, 0, (size_t)(lanes * w->right_stride) * sizeof(float));
    for (int64_t l = 0; l < lanes; l++)
        for (int64_t n = 0; n < samples; n++) {
            const float *from = w->gradient + ((first + n) * all + output + l) * height * width;
            float *to = t->right + l * w->right_stride + n * w->sample_terms;
            for (int64_t i = 0; i < height; i++)
                for (int64_t j = 0; j < width; j++) to[i * w->grid.width + j] = from[i * width + j];
        }
}

static void multiply_block(const Thread *t, int64_t group, int64_t lane, int64_t lanes, int64_t start, int64_t count) {
    const WeightGradient *w = t->w;
    const int64_t output = group * w->g->outputs + lane;
    const int steps = (int)ceil_div(count, w->loops->step_terms);
    const Source right = {t->right, lanes, w->right_stride, w->right_stride, 1, w->high_gradient + output,
                          w->low_gradient + output};
    w->loops->pack(&right, w->fast, 0, TILE_LANES, start, count, t->panel, w->panel_stride);
    int64_t *sums = t->sums + group * w->rows * w->lanes_padded + lane;
    for (int64_t row = 0; row < w->rows; row += TILE_ROWS) {
        Tile tile;
        const int rows = (int)lesser(TILE_ROWS, w->rows - row);
        TileOperands o = {w->fast, steps, rows, (int)lanes, {NULL}, t->rows + row, {NULL}, NULL};
        for (int p = 0; p < w->planes; p++) {
            o.a[p] = (const int32_t *)(const void *)(t->left + (p * w->plane_stride + start) * w->term_bytes);
            o.b[p] = t->panel + p * w->panel_stride;
        }
        w->loops->product(&o, &tile);
        w->loops->accumulate(&tile, w->fast, rows, (int)lanes, sums + row * w->lanes_padded, w->lanes_padded);
    }
}

static void samples_task(void *context, int64_t i) {
    const Thread *t = context;
    const WeightGradient *w = t->w;
    const Convolution *g = w->g;
    const int64_t first = i * w->at_once, samples = lesser(w->at_once, g->samples - first);
    const int64_t terms = (samples - 1) * w->sample_terms + (g->output[Y] - 1) * w->grid.width + g->output[X];
    const int64_t blocks = ceil_div(terms, BLOCK_TERMS), block = 2 * ceil_div(terms, 2 * blocks);
    for (int64_t group = 0; group < g->groups; group++) {
        for (int64_t c = 0; c < g->channels; c++) lay_left(t, first, samples, group * g->channels + c);
        for (int64_t lane = 0; lane < g->outputs; lane += TILE_LANES) {
            const int64_t lanes = lesser(TILE_LANES, g->outputs - lane);
            lay_right(t, first, samples, group * g->outputs + lane, lanes);
            for (int64_t start = 0; start < terms; start += block)
                multiply_block(t, group, lane, lanes, start, lesser(block, terms - start));
        }
    }
}

/* Byte offsets of the left operand's rows: channel, then tap. */
static void row_offsets(const WeightGradient *w, int32_t *rows) {
    const Convolution *g = w->g;
    const int64_t phase_stride = w->channel_stride / (g->stride[Y] * g->stride[X]);
    for (int64_t row = 0; row < ceil_div(w->rows, TILE_ROWS) * TILE_ROWS; row++) {
        const int64_t channel = row / w->taps, t = row % w->taps;
        const int64_t y = t / g->kernel[X] * g->dilation[Y], x = t % g->kernel[X] * g->dilation[X];
        const int64_t phase = y % g->stride[Y] * g->stride[X] + x % g->stride[X];
        const int64_t at = channel * w->channel_stride + phase * phase_stride + y / g->stride[Y] * w->grid.width +
                           x / g->stride[X];
        rows[row] = row < w->rows ? (int32_t)(at * w->term_bytes) : 0;
    }
}

/* Adds up the threads' sums for one row, and writes it as a column of the result. */
static void finish_task(void *context, int64_t i) {
    const WeightGradient *w = context;
    const Convolution *g = w->g;
    const int64_t group = i / w->rows, row = i % w->rows, channel = group * g->channels + row / w->taps;
    int64_t *sums = w->sums + i * w->lanes_padded;
    for (int place = 1; place < w->next_place; place++)
        for (int64_t l = 0; l < g->outputs; l++) sums[l] += sums[place * w->sums_count + l];
    for (int64_t l = 0; l < g->outputs; l += TILE_LANES) {
        float values[TILE_LANES];
        const int lanes = (int)lesser(TILE_LANES, g->outputs - l);
        w->loops->finish_sums(sums + l, 0, 1, lanes, w->unit_input + channel, w->unit_gradient + group * g->outputs + l,
                              values, 0);
        float *to = w->result + (group * g->outputs + l) * w->rows + row;
        for (int j = 0; j < lanes; j++) to[j * w->rows] = values[j];
    }
}

static void run(void *context, int part, int parts) {
    WeightGradient *w = context;
    const Convolution *g = w->g;
    (void)part, (void)parts;
    ts_phase(w->phases, g->groups * (g->channels + g->outputs), units_task, w);
    if (__atomic_load_n(&w->bad, __ATOMIC_RELAXED)) return;
    if (__atomic_load_n(&w->phases[1].next, __ATOMIC_RELAXED) >= w->tasks) return; /* woken too late */
    const int place = __atomic_fetch_add(&w->next_place, 1, __ATOMIC_RELAXED);
    Bump bump = {w->thread_memory + place * w->thread_bytes, 0};
    Thread t = {.w = w, .sums = w->sums + place * w->sums_count};
    t.rows = ts_bump(&bump, (size_t)(w->rows + TILE_ROWS) * sizeof(int32_t));
    t.channel = ts_bump(&bump, (size_t)w->channel_stride * sizeof(float));
    t.right = ts_bump(&bump, (size_t)(TILE_LANES * w->right_stride) * sizeof(float));
    t.left = ts_bump(&bump, (size_t)(w->planes * w->plane_stride * w->term_bytes));
    t.panel = ts_bump(&bump, (size_t)(w->planes * w->panel_stride) * sizeof(int32_t));
    row_offsets(w, t.rows);
    memset(t.sums, 0, (size_t)w->sums_count * sizeof(int64_t));
    ts_phase(w->phases + 1, w->tasks, samples_task, &t);
}

static void plan(WeightGradient *w, int threads, Bump *bump) {
    const Convolution *g = w->g;
    const size_t channels = (size_t)(g->groups * g->channels), outputs = (size_t)(g->groups * g->outputs) + TILE_LANES;
    w->phases = ts_bump(bump, 2 * sizeof(Phase));
    w->peak_input = ts_bump(bump, channels * sizeof(int32_t));
    w->unit_input = ts_bump(bump, channels * sizeof(double));
    w->high_input = ts_bump(bump, channels * sizeof(float));
    w->low_input = ts_bump(bump, channels * sizeof(float));
    w->peak_gradient = ts_bump(bump, outputs * sizeof(int32_t));
    w->unit_gradient = ts_bump(bump, outputs * sizeof(double));
    w->high_gradient = ts_bump(bump, outputs * sizeof(float));
    w->low_gradient = ts_bump(bump, outputs * sizeof(float));
    w->sums_count = g->groups * w->rows * w->lanes_padded + TILE_LANES;
    w->sums = ts_bump(bump, (size_t)(w->sums_count * threads) * sizeof(int64_t));
    Bump own = {NULL, 0};
    ts_bump(&own, (size_t)(w->rows + TILE_ROWS) * sizeof(int32_t));
    ts_bump(&own, (size_t)w->channel_stride * sizeof(float));
    ts_bump(&own, (size_t)(TILE_LANES * w->right_stride) * sizeof(float));
    ts_bump(&own, (size_t)(w->planes * w->plane_stride * w->term_bytes));
    ts_bump(&own, (size_t)(w->planes * w->panel_stride) * sizeof(int32_t));
    w->thread_bytes = (int64_t)own.used;
    w->thread_memory = ts_bump(bump, own.used * (size_t)threads);
}

/* `result` has the weight's shape. Returns as ts_convolution. */
int ts_convolution_grad_weight(const int64_t *numbers, const float *gradient, const float *input, float *result) {
    const Convolution g = ts_convolution_of(numbers);
    WeightGradient w = {.g = &g, .gradient = gradient, .input = input, .result = result, .fast = g.bits <= 13};
    int64_t reach[AXES];
    for (int axis = 0; axis < AXES; axis++) reach[axis] = (g.kernel[axis] - 1) * g.dilation[axis] / g.stride[axis];
    w.loops = ts_tile_loops(w.fast);
    w.planes = w.loops->planes[w.fast];
    w.term_bytes = ts_term_bytes(w.loops);
    w.panel_stride = BLOCK_TERMS / w.loops->step_terms * w.loops->step_entries * TILE_LANES + SPILL;
    w.grid = ts_grid(g.size, g.stride, g.padding, g.output, reach, 1);
    w.taps = g.kernel[Y] * g.kernel[X];
    w.rows = g.channels * w.taps;
    w.lanes_padded = ceil_div(g.outputs, 8) * 8;
    w.sample_terms = w.grid.height * w.grid.width;
    const int64_t phases = g.stride[Y] * g.stride[X];
    const int64_t sample_bytes = w.sample_terms * (g.channels * phases * w.planes * w.term_bytes + TILE_LANES * 4);
    const int64_t fitting = greater(1, lesser(TERMS_AT_ONCE / w.sample_terms, BYTES_AT_ONCE / sample_bytes));
    w.at_once = lesser(fitting, ceil_div(g.samples, g.threads));
    w.tasks = ceil_div(g.samples, w.at_once);
    const int threads = (double)g.samples * (double)(w.sample_terms * w.rows * g.outputs * g.groups) < 1 << 18
                            ? 1 : (int)lesser(g.threads, w.tasks);
    /* One more row of zeros, and what a block of steps may read behind its end. */
    const int64_t phase_stride = ceil_div(w.at_once * w.sample_terms + (reach[Y] + 2) * w.grid.width + 32, 16) * 16;
    w.channel_stride = phase_stride * phases;
    w.plane_stride = g.channels * w.channel_stride + 32;
    w.right_stride = w.at_once * w.sample_terms + 32;
    Bump bump = {NULL, 0};
    plan(&w, threads, &bump);
    bump = (Bump){ts_workspace_take(bump.used), 0};
    if (!bump.base) return 2;
    plan(&w, threads, &bump);
    memset(w.phases, 0, 2 * sizeof(Phase));
    ts_parallel(threads, run, &w);
    for (int64_t i = 0; i < g.groups * w.rows && !w.bad; i++) finish_task(&w, i);
    ts_workspace_give(bump.base);
    return w.bad;
}
