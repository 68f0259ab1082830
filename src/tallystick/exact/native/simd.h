/* Which instruction sets a loop is compiled for. A file of loops is included once for each, with
 * TS_NAME(x) giving its functions different names; results have the same bits, since every loop does the same IEEE
 * operations on each element and nothing is contracted (-ffp-contract=off). */
#ifndef TS_SIMD_H
#define TS_SIMD_H

#if defined(__x86_64__) && defined(__GNUC__)
#define TS_X86 1
#define TS_AVX2 __attribute__((target("avx2")))
#if defined(__clang__)
#define TS_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#else
#define TS_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")))
#endif
#else
#define TS_X86 0
#endif

/* Linux gives a process the unit when asked; the instructions came with GCC 11 and Clang 12. */
#if TS_X86 && defined(__x86_64__) && defined(__linux__)
#if defined(__clang__)
#define TS_AMX (__clang_major__ >= 12)
#else
#define TS_AMX (__GNUC__ >= 11)
#endif
#else
#define TS_AMX 0
#endif

/* 2: AVX-512, 1: AVX2, 0: whatever the compiler was told to build for. */
static inline int ts_simd_level(void) {
#if TS_X86
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2")) return 1;
#endif
    return 0;
}

#endif
