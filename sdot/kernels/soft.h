/* Soft sums: the lanes are targets, and scores come in units of log 2. Part of fused.c. */

#define ROWS 32 /* samples that share the reading of the targets; a multiple of GROUP */
#define NEAR (1 << 20) /* bytes that a near cache holds */
#define KEPT (1 << 22)  /* bytes of scores that are kept, */
#define WHOLE (1 << 24) /* or as many as this where they are whole rows then: cheaper than a second sweep (measured) */
#define MOST_BLOCKS 16 /* blocks of samples that share a stretch of targets then */

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

/* 2^r for r <= 0, zero from `least` on, which is LEAST or more: a polynomial between -1/2 and 1/2 (interpolated at Chebyshev's
   points, relative error 2e-7 and 1e-17), the rest into the exponent. */
INLINE vector power_of_two(vector r, real least) {
#if defined(__AVX512F__)
    vector whole = NAME(_mm512, _roundscale)(r, 0);
#else
    vector shifted = r + SPREAD(SHIFTER), whole = shifted - SPREAD(SHIFTER);
#endif
    vector f = r - whole, p = SPREAD(POWERS[DEGREE]);
#pragma GCC unroll 12
    for (int c = DEGREE - 1; c >= 0; c--) p = p * f + SPREAD(POWERS[c]);
#if defined(__AVX512F__)
    return NAME(_mm512, _maskz_scalef)(GREATER(r, SPREAD(least)), p, whole);
#else
    vector e = (vector)((integers)p + ((integers)shifted << MANTISSA));
    return PICK(GREATER(r, SPREAD(least)), e, SPREAD(0));
#endif
}

INLINE real largest_lane(vector a) {
    for (long l = 1; l < WIDTH; l++) a[0] = a[l] > a[0] ? a[l] : a[0];
    return a[0];
}

/* Some groups of samples against some panels of targets: s[t * length + j], and the largest score of each sample so far, which
   starts at `largest`. Of a block of LANES scores that all lie `cut` or more below it only near[j / LANES * rows + t] = 0 is
   kept: at low temperatures that is most of them. */
INLINE void scores(const real *x, long rows, const real *y, const real *h, long length, long d, real cut, real *s, char *near,
                   real *largest) {
    vector top[ROWS];
    for (long t = 0; t < rows; t++) top[t] = SPREAD(largest[t]);
    for (long j = 0; j < length; j += LANES, near += rows) {
        for (long t = 0; j / LANES % 8 == 7 && t < rows; t++) top[t] = SPREAD(largest_lane(top[t]));
        for (long t0 = 0; t0 < rows; t0 += TILE) {
            vector a[TILE][VECTORS];
            EACH(a[t][v] = ((const loose *)(h + j))[v])
            multiply(a, y + j * d, x + t0 / GROUP * GROUP * d + t0 % GROUP, d, 1);
#pragma GCC unroll 8
            for (int t = 0; t < TILE; t++) {
                vector most = MAX(MAX(a[t][0], a[t][1]), a[t][2]);
                near[t0 + t] = ANY(GREATER(most, top[t0 + t] - SPREAD(cut)));
                top[t0 + t] = MAX(most, top[t0 + t]);
                if (!near[t0 + t]) continue;
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++) ((vector *)(s + (t0 + t) * length + j))[v] = a[t][v];
            }
        }
    }
    for (long t = 0; t < rows; t++) largest[t] = largest_lane(top[t]);
}

#define SCORES(dimension) case dimension: scores(x, rows, y, h, length, dimension, cut, s, near, largest); break;
static void scores_any(const real *x, long rows, const real *y, const real *h, long length, long d, real cut, real *s, char *near,
                       real *largest) {
    switch (d) {
        SCORES(1) SCORES(2) SCORES(3) SCORES(4) SCORES(5) SCORES(6) SCORES(7) SCORES(8)
        default: scores(x, rows, y, h, length, d, cut, s, near, largest);
    }
}

/* s becomes 2^(s - top) where it is near, zero from `cut` below the top on; returns the sum. */
static double powers(real *s, long length, real top, real cut, const char *near, long rows) {
    double sum = 0;
    vector some = SPREAD(0);
    for (long j = 0; j < length; j += LANES, near += rows) {
        if (!*near) continue;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            vector e = power_of_two(((vector *)(s + j))[v] - SPREAD(top), -cut);
            ((vector *)(s + j))[v] = e;
            some += e;
        }
    }
    for (long l = 0; l < WIDTH; l++) sum += some[l];
    return sum;
}

/* The samples t0 <= t < t1 for which a block is near. */
INLINE long list_near(const char *near, long t0, long t1, long list[ROWS]) {
    long count = 0;
    for (long t = t0; t < t1; t++)
        if (near[t]) list[count++] = t;
    return count;
}

/* mass[j] += sum_t e[t][j] / sum[t]: the terms of a group of samples in `real`, the rest in double. */
static void add_masses(const real *e, long rows, long length, const char *near, const double *sum, long count, double *mass) {
    real weight[ROWS];
    for (long t = 0; t < count; t++) weight[t] = (real)(1 / sum[t]);
    for (long j = 0; j < length; j += LANES, near += rows)
        for (long t0 = 0; t0 < count; t0 += GROUP) {
            long list[ROWS], any;
            memcpy(&any, near + t0, GROUP);
            if (!any) continue;
            long some = list_near(near, t0, t0 + GROUP < count ? t0 + GROUP : count, list);
            vector p[VECTORS];
            for (int v = 0; v < VECTORS; v++) p[v] = SPREAD(0);
            for (long q = 0; q < some; q++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    p[v] += ((const vector *)(e + list[q] * length + j))[v] * SPREAD(weight[list[q]]);
            for (int v = 0; v < VECTORS; v++) ((doubles *)(mass + j))[v] += __builtin_convertvector(p[v], doubles);
        }
}

/* sums[c * rows + t] += e[t][j] y_j, coordinate by coordinate, each lane for itself. */
static void add_points(const real *e, long rows, long length, const char *near, const real *y, long d, vector *sums) {
    for (long j = 0; j < length; j += LANES, near += rows) {
        long list[ROWS], some = list_near(near, 0, rows, list);
        for (long c = 0; some && c < d; c++)
            for (long q = 0; q < some; q++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    sums[c * rows + list[q]] +=
                        ((const vector *)(e + list[q] * length + j))[v] * ((const vector *)(y + j * d + c * LANES))[v];
    }
}

/* The softmax p of every sample over the targets j < length (whole panels of LANES; h: filled up with -inf), reduced to
   mass[j] += sum_i p_ij, to average[i] = sum_j p_ij y_j, or to log2 sum_j 2^score_ij as top[i] and total[i]. What is not wanted
   is NULL. x is scaled by `scale` on the way in. All that is left out adds less than a unit in the last place of p. Returns a negative
   number where there is no memory.

   Where whole rows of scores fit a cache they are kept. Where they do not, a stretch of targets meets many blocks of samples
   while it is in the cache, once for the sums and again for what is divided by them. */
int soft(const real *x, long n, long d, real scale, const real *y, const real *h, long length, double *mass, real *average,
         real *top, double *total) {
    long row = length * (long)sizeof(real), whole = row * GROUP <= WHOLE;
    long step = whole ? length : STRETCH / ((ROWS + d) * LANES * (long)sizeof(real)) * LANES + LANES;
    long wanted = d >= GROUP && row * d > NEAR ? ROWS : GROUP; /* reading the targets again costs more than keeping more scores */
    long fitting = row * wanted <= KEPT ? wanted : KEPT / (row * GROUP) * GROUP;
    long rows = !whole ? ROWS : fitting ? fitting : GROUP;
    long most = whole ? 1 : KEPT / (rows * d * (BYTES + (long)sizeof(real))) + 1, blocks = most < MOST_BLOCKS ? most : MOST_BLOCKS;
    long all = blocks * rows;
    real *s = aligned_alloc(BYTES, sizeof(real) * (rows * step + all * d * (WIDTH + 1)) + step / LANES * rows), cut = MANTISSA + 1;
    if (!s) return -1;
    for (long j = 1; j < length; j *= 2) cut++;
    vector *sums = (vector *)(s + rows * step);
    real *samples = (real *)(sums + all * d), largest[ROWS], best[MOST_BLOCKS * ROWS];
    char *near = (char *)(samples + all * d);
    double sum[MOST_BLOCKS * ROWS];
    for (long i0 = 0; i0 < n; i0 += all) {
        long count = n - i0 < all ? n - i0 : all, filled = (count + GROUP - 1) / GROUP * GROUP;
        pack(x + i0 * d, count, d, GROUP, scale, samples);
        for (long t = 0; t < filled; t++) best[t] = -__builtin_inf(), sum[t] = 0;
        for (long c = 0; average && c < filled * d; c++) sums[c] = SPREAD(0);
        for (long again = 0; again < (mass || average ? 2 : 1); again++)
            for (long j = 0, size; j < length; j += step) {
                size = length - j < step ? length - j : step;
                for (long b = 0; b < filled; b += rows) {
                    long some = filled - b < rows ? filled - b : rows;
                    if (!again || !whole) {
                        memcpy(largest, best + b, sizeof(real) * some);
                        scores_any(samples + b * d, some, y + j * d, h + j, size, d, cut, s, near, largest);
                        for (long t = 0; t < some; t++) { /* the sum is scaled down where a larger score comes */
                            real before = best[b + t];
                            if (largest[t] > before) best[b + t] = largest[t], sum[b + t] *= power_of_two(SPREAD(before - largest[t]), LEAST)[0];
                            double own = powers(s + t * size, size, best[b + t], cut, near + t, some);
                            if (!again) sum[b + t] += own;
                        }
                    }
                    if (again && mass) add_masses(s, some, size, near, sum + b, count - b < some ? count - b : some, mass + j);
                    if (again && average) add_points(s, some, size, near, y + j * d, d, sums + b * d);
                }
            }
        for (long t = 0; top && t < count; t++) top[i0 + t] = best[t], total[i0 + t] = sum[t];
        for (long t = 0; average && t < count; t++)
            for (long c = 0; c < d; c++) {
                long b = t / rows * rows, some = filled - b < rows ? filled - b : rows;
                double of_lanes = 0;
                for (long l = 0; l < WIDTH; l++) of_lanes += sums[b * d + c * some + t - b][l];
                average[(i0 + t) * d + c] = of_lanes / sum[t];
            }
    }
    free(s);
    return 0;
}
