/* The arithmetic of one element, as exact/rounding.py and exact/functions.py define it: IEEE operations, one at a time.
 * Comparisons with limits are made on the bits, which compilers turn into vector code without a doubt. */
#ifndef TS_SCALAR_H
#define TS_SCALAR_H

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

/* exp of a bounded float64, not yet rounded. */
TS_INLINE double exp_wide(double x) {
    double shifted = x * LOG2_E + TS_ROUNDER;
    double k = shifted - TS_ROUNDER;
    double r = (x - k * LN2_HIGH) - k * LN2_LOW;
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
    return v * wide_of((wide_bits(shifted) + 1023) << 52);
}

TS_INLINE double bounded(double x, double low, double high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

TS_INLINE float exp_of(float x) {
    float value = canonical((float)exp_wide(bounded((double)x, -104.0, 89.0)));
    return (bits_of(x) & TS_MAGNITUDE) > TS_INFINITY ? x : value;
}

TS_INLINE float log_of(float x) {
    uint32_t b = bits_of(x);
    int32_t exponent = ((int32_t)b >> 23) - 127;
    double mantissa = (double)float_of((b & 0x007fffffu) | 0x3f800000u);
    int32_t high = mantissa > 0x1.6a09e667f3bcdp+0;
    double m = high ? mantissa * 0.5 : mantissa;
    double k = (double)(exponent + high);
    double s = (m - 1.0) / (m + 1.0);
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
    value = (b & TS_MAGNITUDE) == 0 ? float_of(0xff800000u) : value;
    value = b == TS_INFINITY ? x : value;
    return b > 0x80000000u || b > TS_INFINITY ? float_of(TS_NAN) : value;
}

#endif
