/* The scores h_j + <x_i, y_j>, reduced in registers as they are made. fused.py compiles this once for float and once for double.

   A block of scores is an outer product: the points of one side lie across the lanes of vectors (LANES points), those of the
   other side are broadcast one by one (GROUP points). For topk the lanes are samples, for the soft sums they are targets.
   Every function runs on one thread over the rows it is given; fused.py divides the rows among threads. */

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
#define GREATER(a, b) _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ)
#else
typedef __mmask16 mask;
#define GREATER(a, b) _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ)
#endif
#define PICK(m, a, b) NAME(_mm512, _mask_blend)(m, b, a)
#define MAX(a, b) NAME(_mm512, _max)(a, b)
#define MIN(a, b) NAME(_mm512, _min)(a, b)
#define ANY(m) ((m) != 0)
#elif defined(__AVX2__)
typedef vector mask;
#define GREATER(a, b) NAME(_mm256, _cmp)(a, b, _CMP_GT_OQ)
#define PICK(m, a, b) NAME(_mm256, _blendv)(b, a, m)
#define MAX(a, b) NAME(_mm256, _max)(a, b)
#define MIN(a, b) NAME(_mm256, _min)(a, b)
#define ANY(m) (NAME(_mm256, _movemask)(m) != 0)
#else
typedef integers mask;
#define GREATER(a, b) ((a) > (b))
#define PICK(m, a, b) ((vector)(((m) & (integers)(a)) | (~(m) & (integers)(b))))
#define MAX(a, b) PICK(GREATER(a, b), a, b)
#define MIN(a, b) PICK(GREATER(b, a), a, b)
INLINE int ANY(mask m) {
    integer some = 0;
    for (long l = 0; l < WIDTH; l++) some |= m[l];
    return some != 0;
}
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

/* s[t][v] += across (columns of LANES points) times along (columns of GROUP points, of which TILE are used). */
INLINE void multiply(vector s[TILE][VECTORS], const real *across, const real *along, long d) {
    for (long c = 0; c < d; c++) {
        const vector *a = (const vector *)(across + c * LANES);
#pragma GCC unroll 8
        for (int t = 0; t < TILE; t++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) s[t][v] += a[v] * along[c * GROUP + t];
    }
}

/* ---- topk: the lanes are samples --------------------------------------------------------------------------------------- */

#define BLOCKS 16 /* blocks of samples that are held against a stretch of targets while it is in the cache */
#define STRETCH (1 << 18) /* bytes of a stretch */

/* The largest score of every sample within one group of targets. */
INLINE void group_maximum(vector top[VECTORS], const real *x, const real *y, const real *h, long d) {
#pragma GCC unroll 2
    for (int t0 = 0; t0 < GROUP; t0 += TILE) {
        vector s[TILE][VECTORS];
#pragma GCC unroll 8
        for (int t = 0; t < TILE; t++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) s[t][v] = SPREAD(h[t0 + t]);
        multiply(s, x, y + t0, d);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
#pragma GCC unroll 4
            for (int half = TILE / 2; half; half /= 2)
#pragma GCC unroll 4
                for (int t = 0; t < half; t++) s[t][v] = MAX(s[t + half][v], s[t][v]);
            if (t0) top[v] = MAX(s[0][v], top[v]);
            else top[v] = s[0][v];
        }
    }
}

/* Put s into a list of the k largest, which lie VECTORS apart, and its tag into the list of tags. From the first that is smaller
   on, all move down a place; at equal s whoever came first stays ahead. */
INLINE void insert(long k, vector *best, vector *tags, vector s, vector tag) {
    if (k > 2 && !ANY(GREATER(s, best[(k - 1) * VECTORS]))) return; /* most often, once the list is full */
    vector down = s;
#pragma GCC unroll 2
    for (long r = 0; r < k * VECTORS; r += VECTORS) {
        vector b = best[r], t = tags[r];
        mask moves = GREATER(s, b);
        best[r] = MAX(down, b);
        tags[r] = PICK(moves, tag, t);
        down = MIN(down, b);
        tag = PICK(moves, t, tag);
    }
}

/* One block of samples against the groups g0..g1. Keeps the k groups with the largest maxima, ties to the first group: the k
   best targets lie in those groups, and `look_inside` finds them there. Group numbers are kept as reals. */
INLINE void sweep(long k, const real *x, const real *y, const real *h, long g0, long g1, long d, vector *best, vector *where) {
    for (long g = g0; g < g1; g++) {
        vector top[VECTORS];
        group_maximum(top, x, y + g * GROUP * d, h + g * GROUP, d);
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) insert(k, best + v, where + v, top[v], SPREAD(g));
    }
}

/* The same with lists short enough for registers: k is a constant, 1 or 2. */
INLINE void short_sweep(long k, const real *x, const real *y, const real *h, long g0, long g1, long d, vector *best, vector *where) {
    vector b[2 * VECTORS], w[2 * VECTORS];
    for (long r = 0; r < k * VECTORS; r++) b[r] = best[r], w[r] = where[r];
    sweep(k, x, y, h, g0, g1, d, b, w);
    for (long r = 0; r < k * VECTORS; r++) best[r] = b[r], where[r] = w[r];
}

/* Low dimensions are constants too, which unrolls the loop over coordinates. */
#define CASE(sweep, k, dimension) case dimension: sweep(k, x, y, h, g0, g1, dimension, best, where); break;
#define FOR_DIMENSIONS(sweep, k)                                                                               \
    switch (d) {                                                                                               \
        CASE(sweep, k, 1) CASE(sweep, k, 2) CASE(sweep, k, 3) CASE(sweep, k, 4)                                \
        CASE(sweep, k, 5) CASE(sweep, k, 6) CASE(sweep, k, 7) CASE(sweep, k, 8)                                \
        default: sweep(k, x, y, h, g0, g1, d, best, where);                                                    \
    }
static void sweep_any(long k, const real *x, const real *y, const real *h, long g0, long g1, long d, vector *best, vector *where) {
    if (k == 1) FOR_DIMENSIONS(short_sweep, 1)
    else if (k == 2) FOR_DIMENSIONS(short_sweep, 2)
    else FOR_DIMENSIONS(sweep, k)
}

/* The scores of WIDTH samples, each within a group of its own (none where it is negative): the same operations in the same
   order as in `multiply`, so the same numbers. score[t] is the t-th target of every sample's group. */
static void score_inside(const real *x, const real *group, const real *y, const real *h, long d, vector score[GROUP]) {
    octet s[WIDTH];
    const real *own[WIDTH];
    for (long l = 0; l < WIDTH; l++) {
        long j = group[l] < 0 ? 0 : (long)group[l] * GROUP;
        own[l] = y + j * d, s[l] = *(const octet *)(h + j);
    }
    for (long c = 0; c < d; c++)
#pragma GCC unroll 16
        for (long l = 0; l < WIDTH; l++) s[l] += *(const octet *)(own[l] + c * GROUP) * x[c * LANES + l];
    for (long l = 0; l < WIDTH; l++)
        for (long t = 0; t < GROUP; t++) score[t][l] = group[l] < 0 ? -__builtin_inf() : s[l][t];
}

/* From the k best groups of WIDTH samples to their k best targets. Groups are visited in the order of their numbers, which
   keeps ties at the lowest index. `spare` holds two lists. */
static void look_inside(long k, const real *x, const real *y, const real *h, long d, vector *where, vector *spare, long count,
                        real *value, int64_t *index) {
    vector *best = spare, *tags = spare + k * VECTORS, score[GROUP];
    for (long r = 0; r < k; r++) best[r * VECTORS] = SPREAD(-__builtin_inf()), tags[r * VECTORS] = SPREAD(-1);
    for (long end = k - 1; end > 0; end--)
        for (long r = 0; r < end; r++) {
            vector a = where[r * VECTORS], b = where[(r + 1) * VECTORS];
            where[r * VECTORS] = MIN(a, b), where[(r + 1) * VECTORS] = MAX(a, b);
        }
    for (long r = 0; r < k; r++) {
        score_inside(x, (const real *)(where + r * VECTORS), y, h, d, score);
        for (long t = 0; t < GROUP; t++) insert(k, best, tags, score[t], SPREAD(r * GROUP + t));
    }
    for (long l = 0; l < count; l++, value += k, index += k) {
        long hidden = 0;
        for (long r = 0; r < k; r++) {
            long tag = (long)tags[r * VECTORS][l];
            value[r] = best[r * VECTORS][l];
            if (tag >= 0) {
                index[r] = (int64_t)where[tag / GROUP * VECTORS][l] * GROUP + tag % GROUP;
                continue;
            }
            for (long taken = 1; taken; hidden += taken) /* only hidden targets are left: the first that is not in the list */
                for (long q = taken = 0; q < r; q++) taken |= index[q] == hidden;
            index[r] = hidden++;
        }
    }
}

/* The k best of n samples. y: panels of GROUP targets; h: filled up with -inf. Returns nonzero where there is no memory. */
int topk(const real *x, long n, long d, const real *y, const real *h, long m, long k, real *value, int64_t *index) {
    long groups = (m + GROUP - 1) / GROUP, step = STRETCH / (long)sizeof(real) / (GROUP * (d + 1)) + 1;
    long list = k * LANES, block = d * LANES;
    real *packed = aligned_alloc(BYTES, sizeof(real) * (BLOCKS * (block + 2 * list) + 2 * list));
    if (!packed) return 1;
    real *best = packed + BLOCKS * block, *where = best + BLOCKS * list, *spare = where + BLOCKS * list;
    for (long i0 = 0; i0 < n; i0 += BLOCKS * LANES) {
        long count = n - i0 < BLOCKS * LANES ? n - i0 : BLOCKS * LANES, blocks = (count + LANES - 1) / LANES;
        pack(x + i0 * d, count, d, LANES, 1, packed);
        for (long r = 0; r < blocks * list; r++) best[r] = -__builtin_inf(), where[r] = -1;
        for (long g = 0; g < groups; g += step)
            for (long b = 0; b < blocks; b++)
                sweep_any(k, packed + b * block, y, h, g, g + step < groups ? g + step : groups, d,
                          (vector *)(best + b * list), (vector *)(where + b * list));
        for (long i = 0; i < count; i += WIDTH) {
            long b = i / LANES, l = i % LANES;
            look_inside(k, packed + b * block + l, y, h, d, (vector *)(where + b * list + l), (vector *)spare,
                        count - i < WIDTH ? count - i : WIDTH, value + (i0 + i) * k, index + (i0 + i) * k);
        }
    }
    free(packed);
    return 0;
}

/* ---- soft sums: the lanes are targets, and scores come in units of log 2 ------------------------------------------------ */

#define ROWS 32 /* samples that share the reading of the targets; a multiple of GROUP */
#define NEAR (1 << 20) /* bytes that a near cache holds */
#define WHOLE (1 << 25) /* bytes of scores that are kept: whole rows where they fit, else STRETCH bytes, and a second sweep */

#if DOUBLE
#define MANTISSA 52
#define SHIFTER 6755399441055744.0 /* 1.5 2^52: adding it rounds to whole numbers, which then are the lowest bits */
#define LEAST -1022
static const real POWERS[] = {1, 0.69314718055994529, 0.24022650695910097, 0.055504108664821597, 0.0096181291076068744,
                              0.0013333558146416472, 0.00015403530441760255, 1.5252733830588655e-05, 1.321544257331132e-06,
                              1.0178062012336164e-07, 7.0725887555054142e-09, 4.4550411082972003e-10};
#else
#define MANTISSA 23
#define SHIFTER 12582912.0f
#define LEAST -126
static const real POWERS[] = {1, 0.693147181, 0.24022349, 0.0555038101, 0.00966636852, 0.00133813025};
#endif
#define DEGREE ((int)(sizeof(POWERS) / sizeof(real)) - 1)

/* 2^r for r <= 0, zero below the normal numbers: a polynomial between -1/2 and 1/2 (interpolated at Chebyshev's points, relative
   error 2e-7 and 1e-17), the rest into the exponent. */
INLINE vector power_of_two(vector r) {
    vector shifted = r + SPREAD(SHIFTER), f = r - (shifted - SPREAD(SHIFTER)), p = SPREAD(POWERS[DEGREE]);
#pragma GCC unroll 12
    for (int c = DEGREE - 1; c >= 0; c--) p = p * f + SPREAD(POWERS[c]);
    vector e = (vector)((integers)p + ((integers)shifted << MANTISSA));
    return PICK(GREATER(r, SPREAD(LEAST)), e, SPREAD(0));
}

/* Some groups of samples against some panels of targets: s[t * length + j], and the largest score of each sample. */
static void scores(const real *x, long rows, const real *y, const real *h, long length, long d, real *s, real *largest) {
    vector top[ROWS];
    for (long t = 0; t < rows; t++) top[t] = SPREAD(-__builtin_inf());
    for (long j = 0; j < length; j += LANES)
        for (long t0 = 0; t0 < rows; t0 += TILE) {
            vector a[TILE][VECTORS];
#pragma GCC unroll 8
            for (int t = 0; t < TILE; t++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) a[t][v] = ((const loose *)(h + j))[v];
            multiply(a, y + j * d, x + t0 / GROUP * GROUP * d + t0 % GROUP, d);
#pragma GCC unroll 8
            for (int t = 0; t < TILE; t++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) {
                    ((vector *)(s + (t0 + t) * length + j))[v] = a[t][v];
                    top[t0 + t] = MAX(a[t][v], top[t0 + t]);
                }
        }
    for (long t = 0; t < rows; t++) {
        largest[t] = top[t][0];
        for (long l = 1; l < WIDTH; l++) largest[t] = top[t][l] > largest[t] ? top[t][l] : largest[t];
    }
}

/* s becomes 2^(s - top); returns the sum. */
static double powers(real *s, long length, real top) {
    double sum = 0;
    vector some = SPREAD(0);
    for (long j = 0; j < length; j += WIDTH) {
        vector e = power_of_two(*(vector *)(s + j) - SPREAD(top));
        *(vector *)(s + j) = e;
        some += e;
    }
    for (long l = 0; l < WIDTH; l++) sum += some[l];
    return sum;
}

/* mass[j] += sum_t e[t][j] / sum[t]: the terms of a group of samples in `real`, the rest in double. */
static void add_masses(const real *e, long length, const double *sum, long count, double *mass) {
    for (long t0 = 0; t0 < count; t0 += GROUP, e += GROUP * length) {
        vector weight[GROUP];
#pragma GCC unroll 8
        for (int t = 0; t < GROUP; t++) weight[t] = SPREAD(t0 + t < count ? 1 / sum[t0 + t] : 0);
        for (long j = 0; j < length; j += WIDTH) {
            vector p = *(const vector *)(e + j) * weight[0];
#pragma GCC unroll 8
            for (int t = 1; t < GROUP; t++) p += *(const vector *)(e + t * length + j) * weight[t];
            *(doubles *)(mass + j) += __builtin_convertvector(p, doubles);
        }
    }
}

/* sums[c * rows + t] += e[t][j] y_j, coordinate by coordinate, each lane for itself. */
static void add_points(const real *e, long rows, long length, const real *y, long d, vector *sums) {
    for (long j = 0; j < length; j += LANES)
        for (long c = 0; c < d; c++)
#pragma GCC unroll 4
            for (long t = 0; t < rows; t++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    sums[c * rows + t] += ((const vector *)(e + t * length + j))[v] * ((const vector *)(y + j * d + c * LANES))[v];
}

/* The softmax p of every sample over the targets j < length (whole panels of LANES; h: filled up with -inf), reduced to
   mass[j] += sum_i p_ij, to average[i] = sum_j p_ij y_j, or to log2 sum_j 2^score_ij as top[i] and total[i]. What is not wanted
   is NULL. x is scaled by `scale` on the way in. Returns nonzero where there is no memory. */
int soft(const real *x, long n, long d, real scale, const real *y, const real *h, long length, double *mass, real *average,
         real *top, double *total) {
    long row = length * (long)sizeof(real), whole = row * GROUP <= WHOLE;
    long step = whole ? length : STRETCH / (ROWS * LANES * (long)sizeof(real)) * LANES + LANES;
    long wanted = d >= GROUP && row * d > NEAR ? ROWS : GROUP; /* reading the targets again costs more than keeping more scores */
    long rows = !whole || row * wanted <= WHOLE ? wanted : WHOLE / (row * GROUP) * GROUP;
    real *s = aligned_alloc(BYTES, sizeof(real) * rows * (step + d * WIDTH + d * WIDTH));
    if (!s) return 1;
    vector *sums = (vector *)(s + rows * step);
    real *samples = (real *)(sums + rows * d), largest[ROWS], best[ROWS];
    double sum[ROWS];
    for (long i0 = 0; i0 < n; i0 += rows) {
        long count = n - i0 < rows ? n - i0 : rows, filled = (count + GROUP - 1) / GROUP * GROUP;
        pack(x + i0 * d, count, d, GROUP, scale, samples);
        for (long t = 0; t < filled; t++) best[t] = -__builtin_inf(), sum[t] = 0;
        for (long j = 0, size; j < length; j += step) { /* the sum runs along and is scaled down where a larger score comes */
            size = length - j < step ? length - j : step;
            scores(samples, filled, y + j * d, h + j, size, d, s, largest);
            for (long t = 0; t < filled; t++) {
                if (largest[t] > best[t]) sum[t] *= power_of_two(SPREAD(best[t] - largest[t]))[0], best[t] = largest[t];
                sum[t] += powers(s + t * size, size, best[t]);
            }
        }
        for (long t = 0; top && t < count; t++) top[i0 + t] = best[t], total[i0 + t] = sum[t];
        if (!mass && !average) continue;
        for (long c = 0; c < filled * d; c++) sums[c] = SPREAD(0);
        for (long j = 0, size; j < length; j += step) {
            size = length - j < step ? length - j : step;
            if (!whole) { /* only the last stretch is still there */
                scores(samples, filled, y + j * d, h + j, size, d, s, largest);
                for (long t = 0; t < filled; t++) powers(s + t * size, size, best[t]);
            }
            if (mass) add_masses(s, size, sum, count, mass + j);
            if (average) add_points(s, filled, size, y + j * d, d, sums);
        }
        for (long t = 0; average && t < count; t++)
            for (long c = 0; c < d; c++) {
                double of_lanes = 0;
                for (long l = 0; l < WIDTH; l++) of_lanes += sums[c * filled + t][l];
                average[(i0 + t) * d + c] = of_lanes / sum[t];
            }
    }
    free(s);
    return 0;
}
