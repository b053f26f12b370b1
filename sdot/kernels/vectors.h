/* Vectors of numbers, their comparisons, and the product that both fused.c and soft.h are built on. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if DOUBLE
typedef double real;
typedef int64_t integer;
#define NAME(prefix, operation) prefix##operation##_pd
#else
typedef float real;
typedef int32_t integer;
#define NAME(prefix, operation) prefix##operation##_ps
#endif

#if defined(__AVX512F__)
#define BYTES 64
#define TILE 8 /* TILE x VECTORS accumulators fill the registers */
#elif defined(__AVX2__)
#define BYTES 32
#define TILE 4
#else
#define BYTES 16
#define TILE 4
#endif
#define VECTORS 3
#define GROUP 8
#define STRETCH (1 << 18) /* bytes of targets, or of their scores, that are worked on while they are in a cache */
#define WIDTH ((long)(BYTES / sizeof(real)))
#define LANES (VECTORS * WIDTH)

typedef real vector __attribute__((vector_size(BYTES)));
typedef integer integers __attribute__((vector_size(BYTES)));
typedef real loose __attribute__((vector_size(BYTES), aligned(sizeof(real))));
typedef double doubles __attribute__((vector_size(BYTES / sizeof(real) * sizeof(double)), aligned(sizeof(double))));
typedef real octet __attribute__((vector_size(GROUP * sizeof(real)), aligned(sizeof(real))));
#define INLINE static inline __attribute__((always_inline))

/* Comparisons. A NaN loses all of them, and MAX(a, b) is b where a is NaN. */
#if defined(__AVX512F__)
#if DOUBLE
typedef __mmask8 mask;
#define COMPARE(a, b, how) _mm512_cmp_pd_mask(a, b, how)
#else
typedef __mmask16 mask;
#define COMPARE(a, b, how) _mm512_cmp_ps_mask(a, b, how)
#endif
#define GREATER(a, b) COMPARE(a, b, _CMP_GT_OQ)
#define PICK(m, a, b) NAME(_mm512, _mask_blend)(m, b, a)
#define MAX(a, b) NAME(_mm512, _max)(a, b)
#define MIN(a, b) NAME(_mm512, _min)(a, b)
#define ROOT(v) NAME(_mm512, _sqrt)(v)
#define BITS(m) ((unsigned)(m))
#elif defined(__AVX2__)
typedef vector mask;
#define COMPARE(a, b, how) NAME(_mm256, _cmp)(a, b, how)
#define GREATER(a, b) COMPARE(a, b, _CMP_GT_OQ)
#define PICK(m, a, b) NAME(_mm256, _blendv)(b, a, m)
#define MAX(a, b) NAME(_mm256, _max)(a, b)
#define MIN(a, b) NAME(_mm256, _min)(a, b)
#define ROOT(v) NAME(_mm256, _sqrt)(v)
#define BITS(m) ((unsigned)NAME(_mm256, _movemask)(m))
#else
typedef integers mask;
#define GREATER(a, b) ((a) > (b))
#define PICK(m, a, b) ((vector)(((m) & (integers)(a)) | (~(m) & (integers)(b))))
#define MAX(a, b) PICK(GREATER(a, b), a, b)
#define MIN(a, b) PICK(GREATER(b, a), a, b)
INLINE unsigned BITS(mask m) {
    unsigned bits = 0;
    for (long l = 0; l < WIDTH; l++) bits |= (m[l] & 1) << l;
    return bits;
}
#endif
#define ANY(m) (BITS(m) != 0)
#if BYTES == 32
#define HOLD(v) __asm__("" : "+x"(v)) /* in a register: loaded once and not for each use, as only two can be loaded in a cycle */
#else
#define HOLD(v)
#endif
#define SPREAD(scalar) ((real)(scalar) - (vector){0}) /* minus zero keeps every scalar, -0 too */

long lanes(void) { return LANES; }

/* Rows of d numbers, times scale -> panels of `width` rows, column by column; what is missing in the last panel is zero. */
void pack(const real *rows, long n, long d, long width, real scale, real *panels) {
    for (long i0 = 0; i0 < n; i0 += width, panels += width * d) {
        long count = n - i0 < width ? n - i0 : width;
        if (count < width) memset(panels, 0, sizeof(real) * width * d);
        for (long c = 0; c < d; c++)
            for (long i = 0; i < count; i++) panels[c * width + i] = rows[(i0 + i) * d + c] * scale;
    }
}

/* For all TILE x VECTORS accumulators, in registers: the loops are unrolled. */
#define EACH(statement)               \
    _Pragma("GCC unroll 8")           \
    for (int t = 0; t < TILE; t++)    \
        _Pragma("GCC unroll 4")       \
        for (int v = 0; v < VECTORS; v++) statement;

/* s[t][v] += across (columns of LANES points) times along (columns of GROUP points, of which TILE are used). */
INLINE void multiply(vector s[TILE][VECTORS], const real *across, const real *along, long d, int hold) {
    vector own[TILE][VECTORS]; /* which the compiler leaves in registers */
    EACH(own[t][v] = s[t][v])
    if (BYTES == 32 && hold)
        for (long c = 0; c < d; c++) {
            const vector *a = (const vector *)(across + c * LANES);
            vector a0 = a[0], a1 = a[1], a2 = a[2]; /* an array would be written to memory */
            HOLD(a0);
            HOLD(a1);
            HOLD(a2);
            EACH(own[t][v] += (v == 0 ? a0 : v == 1 ? a1 : a2) * along[c * GROUP + t])
        }
    else
        for (long c = 0; c < d; c++) EACH(own[t][v] += ((const vector *)(across + c * LANES))[v] * along[c * GROUP + t])
    EACH(s[t][v] = own[t][v])
}
