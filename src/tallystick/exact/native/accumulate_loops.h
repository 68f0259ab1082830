/* The loops of accumulate.c; included by it once for each instruction set. */

TS_TARGET static uint32_t TS_NAME(fix)(int32_t *y, const float *x, double factor, double limit, int64_t n) {
    uint32_t peak = 0;
    for (int64_t start = 0; start < n; start += CHUNK) {
        const int64_t end = n - start < CHUNK ? n : start + CHUNK;
        for (int64_t i = start; i < end; i++) {
            const uint32_t b = bits_of(x[i]) & TS_MAGNITUDE;
            peak = b > peak ? b : peak;
        }
        if (y == 0) continue;
        for (int64_t i = start; i < end; i++) y[i] = (int32_t)rounded(bounded((double)x[i] * factor, -limit, limit));
    }
    return peak;
}

TS_TARGET static void TS_NAME(mean)(float *restrict y, const int32_t *restrict x, double unit, double batches, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = canonical((float)((double)x[i] * unit / batches));
}

#undef TS_NAME
#undef TS_TARGET
