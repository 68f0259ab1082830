/* Gradients as integers (exact/accumulate.py): to fixed point, while looking for the peak, and from there to means. */
#include <stdint.h>

#include "scalar.h"
#include "simd.h"
#include "threads.h"

enum { SERIAL = 1 << 17, CHUNK = 4096 };

#define TS_NAME(name) name##_portable
#define TS_TARGET
#include "accumulate_loops.h"
#if TS_X86
#define TS_NAME(name) name##_avx2
#define TS_TARGET TS_AVX2
#include "accumulate_loops.h"
#define TS_NAME(name) name##_avx512
#define TS_TARGET TS_AVX512
#include "accumulate_loops.h"
#endif

typedef uint32_t (*fixing)(int32_t *, const float *, double, double, int64_t);

typedef struct {
    const float *x;
    int32_t *y; /* NULL: only the peak is wanted */
    double factor, limit;
    int64_t count;
    fixing fix;
    uint32_t peak;
} job;

static void fix_part(void *context, int part, int parts) {
    job *j = context;
    const int64_t first = j->count * part / parts, end = j->count * (part + 1) / parts;
    const uint32_t peak = j->fix(j->y ? j->y + first : 0, j->x + first, j->factor, j->limit, end - first);
    uint32_t seen = __atomic_load_n(&j->peak, __ATOMIC_RELAXED);
    while (peak > seen && !__atomic_compare_exchange_n(&j->peak, &seen, peak, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* y = round(x * 2**power), limited to +-2**bits units. Returns the bits of the largest magnitude in x. */
uint32_t ts_to_fixed(const float *x, int32_t *y, int64_t count, int64_t power, int64_t bits, int threads) {
    job j = {x, y, power_of_two(power), power_of_two(bits), count, fix_portable, 0};
#if TS_X86
    const int level = ts_simd_level();
    j.fix = level == 2 ? fix_avx512 : level == 1 ? fix_avx2 : fix_portable;
#endif
    if (count < SERIAL)
        fix_part(&j, 0, 1);
    else
        ts_parallel(threads, fix_part, &j);
    return j.peak;
}

typedef void (*meaning)(float *, const int32_t *, double, double, int64_t);

typedef struct {
    const int32_t *x;
    float *y;
    double unit, batches;
    int64_t count;
    meaning mean;
} mean_job;

static void mean_part(void *context, int part, int parts) {
    const mean_job *j = context;
    const int64_t first = j->count * part / parts, end = j->count * (part + 1) / parts;
    j->mean(j->y + first, j->x + first, j->unit, j->batches, end - first);
}

/* y = x * 2**power / batches, each operation rounded to float64 and the result to float32. */
void ts_mean_of(const int32_t *x, float *y, int64_t count, int64_t power, int64_t batches, int threads) {
    mean_job j = {x, y, power_of_two(power), (double)batches, count, mean_portable};
#if TS_X86
    const int level = ts_simd_level();
    j.mean = level == 2 ? mean_avx512 : level == 1 ? mean_avx2 : mean_portable;
#endif
    if (count < SERIAL)
        mean_part(&j, 0, 1);
    else
        ts_parallel(threads, mean_part, &j);
}
