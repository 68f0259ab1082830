/* One loop per operation of the element-wise machine; included by elementwise.c once for each instruction set.
 * Lanes are 4 bytes: a float, or 0 and 1 for a flag. A result may take the place of an operand: same index, same place. */

#define LOOP(name, D, A, B, C, value)                                                                  \
    TS_TARGET static void TS_NAME(name)(void *vd, const void *va, const void *vb, const void *vc, int64_t n) { \
        D *d = vd;                                                                                     \
        const A *a = va;                                                                               \
        const B *b = vb;                                                                               \
        const C *c = vc;                                                                               \
        (void)b, (void)c;                                                                              \
        TS_IVDEP for (int64_t i = 0; i < n; i++) d[i] = (value);                                       \
    }
#define UNARY(name, value) LOOP(name, float, float, float, float, value)
#define BINARY(name, value) LOOP(name, float, float, float, float, value)
#define COMPARISON(name, sign)                                         \
    LOOP(name, int32_t, float, float, float, a[i] sign b[i] ? 1 : 0) \
    LOOP(name##_long, int32_t, int64_t, int64_t, int64_t, a[i] sign b[i] ? 1 : 0)

BINARY(add, settled(a[i] + b[i]))
BINARY(sub, settled(a[i] - b[i]))
BINARY(mul, settled(a[i] * b[i]))
BINARY(div, settled(a[i] / b[i]))
BINARY(maximum, settled(larger(a[i], b[i])))
BINARY(minimum, settled(smaller(a[i], b[i])))
UNARY(abs, float_of(bits_of(a[i]) & TS_MAGNITUDE))
UNARY(relu, a[i] <= 0.0f ? 0.0f : a[i])
UNARY(exp, exp_of(a[i]))
UNARY(expm1, expm1_of(a[i]))
UNARY(log, log_of(a[i]))
UNARY(log1p, log1p_of(a[i]))
UNARY(tanh, tanh_of(a[i]))
UNARY(sigmoid, sigmoid_of(a[i]))
UNARY(erf, erf_of(a[i]))
UNARY(sqrt, sqrt_of(a[i]))
COMPARISON(eq, ==)
COMPARISON(ne, !=)
COMPARISON(lt, <)
COMPARISON(le, <=)
COMPARISON(gt, >)
COMPARISON(ge, >=)
LOOP(where, uint32_t, int32_t, uint32_t, uint32_t, a[i] ? b[i] : c[i])
LOOP(copy, uint32_t, uint32_t, uint32_t, uint32_t, a[i])
LOOP(load_flag, int32_t, uint8_t, uint8_t, uint8_t, a[i] != 0)
LOOP(store_flag, uint8_t, int32_t, int32_t, int32_t, (uint8_t)a[i])
LOOP(float_of_flag, float, int32_t, int32_t, int32_t, (float)a[i])
LOOP(float_of_byte, float, uint8_t, uint8_t, uint8_t, (float)a[i])
LOOP(float_of_int, float, int32_t, int32_t, int32_t, (float)a[i])
LOOP(float_of_long, float, int64_t, int64_t, int64_t, (float)a[i])
LOOP(logical_and, int32_t, int32_t, int32_t, int32_t, a[i] & b[i])
LOOP(logical_or, int32_t, int32_t, int32_t, int32_t, a[i] | b[i])
LOOP(logical_xor, int32_t, int32_t, int32_t, int32_t, a[i] ^ b[i])
LOOP(logical_not, int32_t, int32_t, int32_t, int32_t, a[i] ^ 1)

#define X(name) TS_NAME(name),
static const loop TS_NAME(loops)[] = {TS_OPERATIONS};
#undef X
#undef LOOP
#undef UNARY
#undef BINARY
#undef COMPARISON
#undef TS_NAME
#undef TS_TARGET
