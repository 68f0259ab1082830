#include "conv.h"

#include <string.h>

Convolution ts_convolution_of(const int64_t *numbers) {
    Convolution c = {.samples = numbers[0], .channels = numbers[1], .outputs = numbers[2], .groups = numbers[3]};
    int64_t *const pairs[] = {c.size, c.output, c.kernel, c.stride, c.padding, c.dilation};
    for (int i = 0; i < 6; i++) memcpy(pairs[i], numbers + 4 + AXES * i, sizeof c.size);
    c.bits = (int)numbers[16];
    c.threads = (int)numbers[17];
    return c;
}

/* Grid indices along one axis. Those beyond what is laid out are the next row's, which have to be padding. */
static int64_t extent(int64_t size, int64_t factor, int64_t before, int64_t count, int64_t reach, int shared) {
    const int64_t needed = count + reach, filled = size + before <= 0 ? 0 : ceil_div(size + before, factor);
    const int64_t chosen = greater(count, lesser(needed, filled)), beyond = needed - 1 - chosen;
    if (!shared || (beyond >= 0 && beyond * factor + factor - 1 >= before)) return needed;
    return chosen;
}

Grid ts_grid(const int64_t *size, const int64_t *factor, const int64_t *before, const int64_t *count,
             const int64_t *reach, int shared) {
    Grid g;
    memcpy(g.size, size, sizeof g.size);
    memcpy(g.factor, factor, sizeof g.factor);
    memcpy(g.before, before, sizeof g.before);
    g.height = extent(size[Y], factor[Y], before[Y], count[Y], reach[Y], shared);
    g.width = extent(size[X], factor[X], before[X], count[X], reach[X], 1);
    g.phase_entries = (g.height + 1) * g.width;
    g.entries = factor[Y] * factor[X] * g.phase_entries;
    return g;
}

/* Grid indices first .. last - 1 of a phase hold entries of the channel. */
static void filled_range(const Grid *g, int axis, int64_t phase, int64_t extent_of_axis, int64_t *first,
                         int64_t *last) {
    const int64_t f = g->factor[axis], lowest = g->before[axis] - phase;
    *first = lowest <= 0 ? 0 : ceil_div(lowest, f);
    const int64_t end = g->size[axis] + lowest;
    *last = lesser(extent_of_axis, end <= 0 ? 0 : ceil_div(end, f));
}

void ts_fill(const Grid *g, const float *channel, float *to, int64_t phase_stride) {
    for (int64_t py = 0; py < g->factor[Y]; py++)
        for (int64_t px = 0; px < g->factor[X]; px++, to += phase_stride) {
            int64_t top, bottom, left, right;
            filled_range(g, Y, py, g->height, &top, &bottom);
            filled_range(g, X, px, g->width, &left, &right);
            const int64_t step = g->factor[X], column = left * step + px - g->before[X];
            for (int64_t i = top; i < bottom; i++) {
                const float *from = channel + (i * g->factor[Y] + py - g->before[Y]) * g->size[X] + column;
                float *row = to + i * g->width + left;
                if (step == 1) {
                    for (int64_t j = 0; j < right - left; j++) row[j] = from[j];
                } else {
                    for (int64_t j = 0; j < right - left; j++) row[j] = from[j * step];
                }
            }
        }
}
