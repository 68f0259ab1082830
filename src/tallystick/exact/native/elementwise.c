/* The element-wise machine: runs a chain of element-wise operations over one index space, block by block, so that what
 * one operation makes is still in the first cache when the next one takes it.
 *
 * An operation reads and writes slots. Slots are numbered: inputs, constants, outputs, registers. In each block a slot
 * is a pointer to at most BLOCK entries: into the tensor where that lies in the order of the index space, otherwise
 * into memory of the thread, which inputs are gathered into. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scalar.h"
#include "simd.h"
#include "threads.h"

enum { BLOCK = 1024, MAX_DIMS = 16, SPARE = 192, SERIAL = 1 << 18 };
/* SPARE bytes between slots keep them from all starting at the same place in the cache; fewer than SERIAL operations are
 * not worth another thread. */

typedef void (*loop)(void *d, const void *a, const void *b, const void *c, int64_t n);
typedef struct {
    int32_t op, d, a, b, c;
} instruction;

typedef struct {
    int64_t bytes;                 /* of one entry */
    int64_t dims;                  /* after merging: 0 for a single value, -1 if in the order of the index space */
    int64_t size[MAX_DIMS];
    int64_t stride[MAX_DIMS];      /* in entries */
} layout;

typedef struct {
    int64_t inputs, constants, outputs, registers, instructions, total;
    const instruction *code;
    const layout *layouts;         /* of the inputs */
    const int64_t *constant_bits;  /* constants * {bytes of an entry, its bits} */
    const int64_t *output_bytes;
} plan;

#define TS_OPERATIONS                                                                                             \
    X(add) X(sub) X(mul) X(div) X(maximum) X(minimum) X(abs) X(relu) X(exp) X(expm1) X(log) X(log1p) X(tanh)      \
    X(sigmoid) X(erf) X(sqrt) X(eq) X(ne) X(lt) X(le) X(gt) X(ge) X(eq_long) X(ne_long) X(lt_long) X(le_long)     \
    X(gt_long) X(ge_long) X(where) X(copy) X(load_flag) X(store_flag) X(float_of_flag) X(float_of_byte)           \
    X(float_of_int) X(float_of_long) X(logical_and) X(logical_or) X(logical_xor) X(logical_not)

#define X(name) #name,
static const char *const names[] = {TS_OPERATIONS};
#undef X

/* The number of an operation, or -1. */
int ts_operation(const char *name) {
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

#if defined(__clang__)
#define TS_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#else
#define TS_IVDEP _Pragma("GCC ivdep")
#endif

#define TS_NAME(name) name##_portable
#define TS_TARGET
#include "elementwise_loops.h"
#if TS_X86
#define TS_NAME(name) name##_avx2
#define TS_TARGET TS_AVX2
#include "elementwise_loops.h"
#define TS_NAME(name) name##_avx512
#define TS_TARGET TS_AVX512
#include "elementwise_loops.h"
#endif

static const loop *loops_here(void) {
#if TS_X86
    int level = ts_simd_level();
    if (level == 2) return loops_avx512;
    if (level == 1) return loops_avx2;
#endif
    return loops_portable;
}

/* One run of `count` entries, `stride` apart. */
static void copy_run(char *to, const char *from, int64_t count, int64_t stride, int64_t bytes) {
#define RUN(T)                                                              \
    {                                                                       \
        T *restrict t = (T *)to;                                            \
        const T *restrict f = (const T *)from;                              \
        if (stride == 0) {                                                  \
            const T value = *f;                                             \
            for (int64_t i = 0; i < count; i++) t[i] = value;               \
        } else                                                              \
            for (int64_t i = 0; i < count; i++) t[i] = f[i * stride];       \
    }
    if (stride == 1)
        memcpy(to, from, (size_t)(count * bytes));
    else if (bytes == 4)
        RUN(uint32_t)
    else if (bytes == 8)
        RUN(uint64_t)
    else
        RUN(uint8_t)
#undef RUN
}

/* Entries start .. start+count-1 of the index space, as `from` lays them out. Where they lie side by side already, a
 * pointer to them; otherwise they are copied to `to`. */
static const char *gather(const layout *l, const char *from, char *to, int64_t start, int64_t count) {
    int64_t at[MAX_DIMS], place = 0, last = l->dims - 1;
    for (int64_t d = last, rest = start; d >= 0; d--) {
        at[d] = rest % l->size[d];
        rest /= l->size[d];
        place += at[d] * l->stride[d];
    }
    int64_t run = l->size[last] - at[last];
    if (run >= count && l->stride[last] == 1) return from + place * l->bytes;
    for (int64_t done = 0; done < count; run = l->size[last]) {
        if (run > count - done) run = count - done;
        copy_run(to + done * l->bytes, from + place * l->bytes, run, l->stride[last], l->bytes);
        done += run;
        place -= at[last] * l->stride[last];
        at[last] = 0;
        for (int64_t d = last - 1; d >= 0; d--) {
            place += l->stride[d];
            if (++at[d] < l->size[d]) break;
            place -= at[d] * l->stride[d];
            at[d] = 0;
        }
    }
    return to;
}

static void fill(char *to, const void *value, int64_t bytes) {
    for (int64_t i = 0; i < BLOCK; i++) memcpy(to + i * bytes, value, (size_t)bytes);
}

typedef struct {
    const plan *p;
    void *const *memory; /* inputs, then outputs */
    const loop *loops;
    int failed;
} job;

static void run_part(void *context, int part, int parts) {
    job *j = context;
    const plan *p = j->p;
    const int64_t slots = p->inputs + p->constants + p->outputs + p->registers, apart = 8 * BLOCK + SPARE;
    const int64_t blocks = (p->total + BLOCK - 1) / BLOCK;
    const int64_t first = blocks * part / parts, end = blocks * (part + 1) / parts;
    if (first == end) return;
    char *memory = malloc((size_t)((slots + 1) * apart + slots * (int64_t)sizeof(void *)));
    if (memory == NULL) {
        __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    char **slot = (char **)memory, *own = memory + slots * (int64_t)sizeof(void *);
    own += (64 - (uintptr_t)own % 64) % 64;
    const int64_t constants = p->inputs, outputs = constants + p->constants;
    for (int64_t s = 0; s < slots; s++) slot[s] = own + s * apart;
    for (int64_t s = 0; s < p->inputs; s++)
        if (p->layouts[s].dims == 0) fill(slot[s], j->memory[s], p->layouts[s].bytes);
    for (int64_t s = 0; s < p->constants; s++)
        fill(slot[constants + s], &p->constant_bits[2 * s + 1], p->constant_bits[2 * s]);
    for (int64_t block = first; block < end; block++) {
        const int64_t start = block * BLOCK, left = p->total - start, count = left < BLOCK ? left : BLOCK;
        for (int64_t s = 0; s < p->inputs; s++) {
            const layout *l = &p->layouts[s];
            if (l->dims < 0)
                slot[s] = (char *)j->memory[s] + start * l->bytes;
            else if (l->dims > 0)
                slot[s] = (char *)gather(l, j->memory[s], own + s * apart, start, count);
        }
        for (int64_t s = 0; s < p->outputs; s++)
            slot[outputs + s] = (char *)j->memory[p->inputs + s] + start * p->output_bytes[s];
        for (int64_t i = 0; i < p->instructions; i++) {
            const instruction *in = &p->code[i];
            j->loops[in->op](slot[in->d], slot[in->a], slot[in->b], slot[in->c], count);
        }
    }
    free(memory);
}

/* Runs a plan on `memory`, inputs before outputs; 0, or -1 if there was no memory for its registers. */
int ts_elementwise(const plan *p, void *const *memory, int threads) {
    job j = {p, memory, loops_here(), 0};
    if (p->total == 0) return 0;
    if (p->total * p->instructions < SERIAL)
        run_part(&j, 0, 1);
    else
        ts_parallel(threads, run_part, &j);
    return j.failed ? -1 : 0;
}
