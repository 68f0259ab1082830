/* The loops of reduce.c; included by it once for each instruction set. */

/* The bits of the largest magnitude. */
TS_TARGET static uint32_t TS_NAME(peak)(const float *x, int64_t n) {
    uint32_t peak = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t b = bits_of(x[i]) & TS_MAGNITUDE;
        peak = b > peak ? b : peak;
    }
    return peak;
}

/* The sum of round(x / unit). Partial sums stay below 2**53, so lanes of float64 may be added in any order. */
TS_TARGET static int64_t TS_NAME(total)(const float *x, int64_t n, double inverse) {
    int64_t total = 0;
    for (int64_t start = 0; start < n; start += CHUNK) {
        const int64_t count = n - start < CHUNK ? n - start : CHUNK;
        const float *part = x + start;
        double lanes[16] = {0.0}, sum = 0.0;
        int64_t i = 0;
        for (; i + 16 <= count; i += 16)
            for (int k = 0; k < 16; k++) lanes[k] += rounded((double)part[i + k] * inverse);
        for (; i < count; i++) sum += rounded((double)part[i] * inverse);
        for (int k = 0; k < 16; k++) sum += lanes[k];
        total += (int64_t)sum;
    }
    return total;
}

TS_TARGET static void TS_NAME(column_peaks)(uint32_t *restrict peaks, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t b = bits_of(x[i]) & TS_MAGNITUDE;
        peaks[i] = b > peaks[i] ? b : peaks[i];
    }
}

TS_TARGET static void TS_NAME(column_totals)(double *restrict totals, const float *restrict x,
                                             const double *restrict inverse, int64_t n) {
    for (int64_t i = 0; i < n; i++) totals[i] += rounded((double)x[i] * inverse[i]);
}

/* Returns the bits of the largest exponential. A maximum of -inf counts as 0. */
TS_TARGET static uint32_t TS_NAME(softmax_row)(float *restrict y, const float *restrict x, int64_t n, int logarithm) {
    float low = float_of(TS_INFINITY | 0x80000000u), highest = low;
    int nan = 0;
    for (int64_t i = 0; i < n; i++) {
        highest = x[i] > highest ? x[i] : highest;
        nan |= x[i] != x[i];
    }
    if (nan) return TS_NAN;
    if (highest == low) highest = 0.0f;
    uint32_t peak = 0;
    float e[CHUNK];
    int64_t total = 0;
    if (n > CHUNK) logarithm |= 2; /* the exponentials do not fit beside the row: they are computed again */
    for (int64_t start = 0; start < n; start += CHUNK) {
        const int64_t count = n - start < CHUNK ? n - start : CHUNK;
        for (int64_t i = 0; i < count; i++) e[i] = exp_of(settled(x[start + i] - highest));
        const uint32_t p = TS_NAME(peak)(e, count);
        peak = p > peak ? p : peak;
    }
    if (peak >= TS_INFINITY) return peak;
    const double inverse = inverse_unit(peak, TERM_BITS);
    for (int64_t start = 0; start < n; start += CHUNK) {
        const int64_t count = n - start < CHUNK ? n - start : CHUNK;
        if (logarithm & 2)
            for (int64_t i = 0; i < count; i++) e[i] = exp_of(settled(x[start + i] - highest));
        total += TS_NAME(total)(e, count, inverse);
    }
    const float sum = canonical((float)((double)total * unit_of(peak, TERM_BITS)));
    if (logarithm & 1) {
        const float log_sum = log_of(sum);
        for (int64_t i = 0; i < n; i++) y[i] = settled(settled(x[i] - highest) - log_sum);
    } else {
        for (int64_t start = 0; start < n; start += CHUNK) {
            const int64_t count = n - start < CHUNK ? n - start : CHUNK;
            if (logarithm & 2)
                for (int64_t i = 0; i < count; i++) e[i] = exp_of(settled(x[start + i] - highest));
            for (int64_t i = 0; i < count; i++) y[start + i] = settled(e[i] / sum);
        }
    }
    return peak;
}

#undef TS_NAME
#undef TS_TARGET
