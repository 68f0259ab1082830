/* The arithmetic of one element, as exact/rounding.py and exact/functions.py define it: IEEE operations, one at a time.
 * Comparisons with limits are made on the bits, which compilers turn into vector code without a doubt. */
#ifndef TS_SCALAR_H
#define TS_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define TS_INLINE static inline __attribute__((always_inline))

TS_INLINE uint32_t bits_of(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}

TS_INLINE float float_of(uint32_t b) {
    float x;
    memcpy(&x, &b, 4);
    return x;
}

TS_INLINE uint64_t wide_bits(double x) {
    uint64_t b;
    memcpy(&b, &x, 8);
    return b;
}

TS_INLINE double wide_of(uint64_t b) {
    double x;
    memcpy(&x, &b, 8);
    return x;
}

#define TS_MAGNITUDE 0x7fffffffu
#define TS_SMALLEST 0x00800000u /* 2**-126 */
#define TS_INFINITY 0x7f800000u
#define TS_NAN 0x7fc00000u

/* canonical(x): magnitudes up to 2**-126 become +0. */
TS_INLINE float canonical(float x) {
    uint32_t b = bits_of(x);
    return float_of((b & TS_MAGNITUDE) <= TS_SMALLEST ? 0u : b);
}

/* one_nan(x): every NaN becomes the one. */
TS_INLINE float one_nan(float x) {
    uint32_t b = bits_of(x);
    return float_of((b & TS_MAGNITUDE) > TS_INFINITY ? TS_NAN : b);
}

TS_INLINE float settled(float x) { return one_nan(canonical(x)); }

/* power_of_two(e), also for the e that do not fit: the same bits. */
TS_INLINE double power_of_two(int64_t e) { return wide_of((uint64_t)(e + 1023) << 52); }

/* Adding and taking away 1.5 * 2**52 rounds |x| <= 2**51 to an integer, ties to even, and leaves it in the low bits of
 * the sum: cheaper than rint, and there without SSE4.1. */
#define TS_ROUNDER 0x1.8p52

TS_INLINE double rounded(double x) { return (x + TS_ROUNDER) - TS_ROUNDER; }

#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42fee00000p-1
#define LN2_LOW 0x1.a39ef35793c76p-33

TS_INLINE double bounded(double x, double low, double high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* functions.finished: the one NaN where x is NaN. What NaN turned into on the way does not matter. */
TS_INLINE float finished(float x, double value) {
    return (bits_of(x) & TS_MAGNITUDE) > TS_INFINITY ? float_of(TS_NAN) : canonical((float)value);
}

/* x = k * ln(2) + r; returns 2**k. */
TS_INLINE double exp_reduced(double x, double *r) {
    double shifted = x * LOG2_E + TS_ROUNDER;
    double k = shifted - TS_ROUNDER;
    *r = (x - k * LN2_HIGH) - k * LN2_LOW;
    return wide_of((wide_bits(shifted) + 1023) << 52);
}

/* exp of a bounded float64, not yet rounded. */
TS_INLINE double exp_wide(double x) {
    double r, scale = exp_reduced(x, &r);
    double v = 1.0 / 39916800.0;
    v = v * r + 1.0 / 3628800.0;
    v = v * r + 1.0 / 362880.0;
    v = v * r + 1.0 / 40320.0;
    v = v * r + 1.0 / 5040.0;
    v = v * r + 1.0 / 720.0;
    v = v * r + 1.0 / 120.0;
    v = v * r + 1.0 / 24.0;
    v = v * r + 1.0 / 6.0;
    v = v * r + 1.0 / 2.0;
    v = v * r + 1.0;
    v = v * r + 1.0;
    return v * scale;
}

TS_INLINE double expm1_wide(double x) {
    double r, scale = exp_reduced(x, &r);
    double v = 1.0 / 479001600.0;
    v = v * r + 1.0 / 39916800.0;
    v = v * r + 1.0 / 3628800.0;
    v = v * r + 1.0 / 362880.0;
    v = v * r + 1.0 / 40320.0;
    v = v * r + 1.0 / 5040.0;
    v = v * r + 1.0 / 720.0;
    v = v * r + 1.0 / 120.0;
    v = v * r + 1.0 / 24.0;
    v = v * r + 1.0 / 6.0;
    v = v * r + 1.0 / 2.0;
    v = v * r + 1.0;
    return (r * v) * scale + (scale - 1.0);
}

TS_INLINE double with_sign_of(float x, double magnitude) { return x < 0.0f ? -magnitude : magnitude; }

TS_INLINE double magnitude_of(float x, double high) {
    return bounded((double)float_of(bits_of(x) & TS_MAGNITUDE), 0.0, high);
}

TS_INLINE float exp_of(float x) { return finished(x, exp_wide(bounded((double)x, -104.0, 89.0))); }

TS_INLINE float expm1_of(float x) { return finished(x, expm1_wide(bounded((double)x, -104.0, 89.0))); }

TS_INLINE float tanh_of(float x) {
    double magnitude = magnitude_of(x, 10.0), excess = expm1_wide(magnitude + magnitude);
    return finished(x, with_sign_of(x, excess / (excess + 2.0)));
}

TS_INLINE float sigmoid_of(float x) {
    return finished(x, 1.0 / (1.0 + exp_wide(-bounded((double)x, -104.0, 89.0))));
}

TS_INLINE float erf_of(float x) {
    double magnitude = magnitude_of(x, 4.0), z = magnitude * magnitude;
    double u = 0x1.29560d780a574p-49, l = 0x1.115f6bbde5564p-41;
    u = u * z + 0x1.1dff26490a273p-36;
    u = u * z + 0x1.3361c05adf724p-29;
    u = u * z + 0x1.463ae8bcf60d9p-24;
    u = u * z + 0x1.43f1fbca7e0a4p-19;
    u = u * z + 0x1.461b9cbb030ebp-15;
    u = u * z + 0x1.6cfa1e4acce6cp-11;
    u = u * z + 0x1.77ad15bf68135p-8;
    u = u * z + 0x1.fab56dfd01273p-5;
    u = u * z + 0x1.a18585ebfbbf1p-3;
    u = u * z + 0x1.20dd750429b84p+0;
    l = l * z + 0x1.12831fa1890c1p-32;
    l = l * z + 0x1.da683c94a8ba4p-27;
    l = l * z + 0x1.e1cf473fd946fp-22;
    l = l * z + 0x1.54fad4224601ep-17;
    l = l * z + 0x1.64434a56c5299p-13;
    l = l * z + 0x1.16581b02b5c87p-9;
    l = l * z + 0x1.4023df362dd84p-6;
    l = l * z + 0x1.025c2280f455dp-3;
    l = l * z + 0x1.072bdfb17afa6p-1;
    l = l * z + 0x1.0000000000000p+0;
    return finished(x, with_sign_of(x, magnitude * u / l));
}

/* Positive finite x = m * 2**k; returns m. */
TS_INLINE double log_reduced(double x, double *k) {
    uint64_t b = wide_bits(x);
    double mantissa = wide_of((b & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    int32_t high = mantissa > 0x1.6a09e667f3bcdp+0;
    *k = (double)((int32_t)(b >> 52) - 1023 + high);
    return high ? mantissa * 0.5 : mantissa;
}

/* log of x = 2**k * (1 + s) / (1 - s), and its special values. */
TS_INLINE float log_finished(double x, double k, double s) {
    double z = s * s;
    double v = 2.0 / 17.0;
    v = v * z + 2.0 / 15.0;
    v = v * z + 2.0 / 13.0;
    v = v * z + 2.0 / 11.0;
    v = v * z + 2.0 / 9.0;
    v = v * z + 2.0 / 7.0;
    v = v * z + 2.0 / 5.0;
    v = v * z + 2.0 / 3.0;
    v = v * z + 2.0;
    float value = canonical((float)(k * LN2_HIGH + (s * v + k * LN2_LOW)));
    value = x == 0.0 ? float_of(TS_INFINITY | 0x80000000u) : value;
    value = x == (double)float_of(TS_INFINITY) ? float_of(TS_INFINITY) : value;
    return x >= 0.0 ? value : float_of(TS_NAN);
}

TS_INLINE float log_of(float x) {
    double k, m = log_reduced((double)x, &k);
    return log_finished((double)x, k, (m - 1.0) / (m + 1.0));
}

TS_INLINE float log1p_of(float x) {
    double wide = (double)x, above = 1.0 + wide, k, m = log_reduced(above, &k);
    int near = wide <= 0.25 && wide >= -0.25;
    double s = (near ? wide : m - 1.0) / (near ? wide + 2.0 : m + 1.0);
    return log_finished(above, near ? 0.0 : k, s);
}

/* roots.sqrt: the hardware's square root is the correctly rounded one. */
TS_INLINE float sqrt_of(float x) { return x >= 0.0f ? sqrtf(x) : float_of(TS_NAN); }

/* torch.maximum and torch.minimum: NaN if either is. */
TS_INLINE float larger(float a, float b) { return a > b || a != a ? a : b; }

TS_INLINE float smaller(float a, float b) { return a < b || a != a ? a : b; }

#endif
