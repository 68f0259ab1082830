/* What the three products of a convolution share: its sizes, and the grid on which its operands are laid out.
 *
 * A channel is laid out with its padding on a grid, flat, such that the entry that tap k of output (i, j) needs is at
 * index i * width + j + offset(k). Then 32 neighboring entries are one load, nothing is copied for each tap, and results
 * for indices between rows are computed and dropped. With stride s a channel has s * s grids (phases), one for each
 * residue of the coordinates. The right padding of a row is the left padding of the next one where that fits. */
#ifndef TS_CONV_H
#define TS_CONV_H

#include "tiles.h"
#include "workspace.h"

enum { Y, X, AXES };

typedef struct {
    int64_t samples, channels, outputs, groups;      /* channels and outputs of one group */
    int64_t size[AXES], output[AXES], kernel[AXES];  /* of the input, the output, the weight */
    int64_t stride[AXES], padding[AXES], dilation[AXES];
    int bits, threads;
} Convolution;

/* The numbers in the order in which Python passes them: samples, channels, outputs, groups, then pairs as above, bits,
 * threads; 0 threads are never passed. */
Convolution ts_convolution_of(const int64_t *numbers);

/* How one channel lies: grid index i of phase p holds entry i * factor + p - before. */
typedef struct {
    int64_t size[AXES];   /* of the channel */
    int64_t factor[AXES]; /* so many phases along each axis */
    int64_t before[AXES]; /* padding */
    int64_t height, width;
    int64_t phase_entries; /* of one phase's grid, its end zero */
    int64_t entries;       /* of all phases */
} Grid;

/* `count`: how many grid indices results have along an axis; `reach`: the largest offset of a tap along it. `shared`:
 * whether the rows below one sample's grid are those above the next one's. */
Grid ts_grid(const int64_t *size, const int64_t *factor, const int64_t *before, const int64_t *count,
             const int64_t *reach, int shared);

/* Copies a channel to its grids. What is not written is the padding: the memory must be zero before the first channel,
 * and stays so. `phase_stride`: from one phase's grid to the next. */
void ts_fill(const Grid *grid, const float *channel, float *to, int64_t phase_stride);

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t greater(int64_t a, int64_t b) { return a < b ? b : a; }

#endif
