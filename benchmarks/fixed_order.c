/* The product of float32 matrices a [M, K] and b [K, N], rows `from` to `to` of it: one fused multiply-add per term, in
 * the order of k. The loop over columns is inside, so that a compiler may vectorize it; each entry still adds its terms
 * in the same order, and has the same bits as with the loops any other way around. */
#include <math.h>
#include <stddef.h>

void fixed_order(const float *restrict a, const float *restrict b, float *restrict c, ptrdiff_t K, ptrdiff_t N,
                 ptrdiff_t from, ptrdiff_t to) {
  for (ptrdiff_t i = from; i < to; i++) {
    for (ptrdiff_t j = 0; j < N; j++) c[i * N + j] = 0.0f;
    for (ptrdiff_t k = 0; k < K; k++)
      for (ptrdiff_t j = 0; j < N; j++) c[i * N + j] = fmaf(a[i * K + k], b[k * N + j], c[i * N + j]);
  }
}
