/* The first pass in integers of 16 bits: x^ = alpha p, z^ = beta q for vectors of integers p and q. alpha and beta make |p| and |q|
   as long as sums of 32 bits allow, which leaves 1e-4 of |x| |z| in doubt. */

#define LENGTH 32000.0f /* of p and q: coordinates fit 16 bits, |p| |q| fits 32 */
#define NEAREST(v) (((v) + SHIFTER) - SHIFTER) /* the nearest whole number */

/* s + the products of two pairs of integers, in every lane */
#if defined(__AVX512VNNI__)
#define PAIRS(s, a, b) ((integers)_mm512_dpwssd_epi32((__m512i)(s), (__m512i)(a), b))
#elif defined(__AVX512BW__)
#define PAIRS(s, a, b) ((s) + (integers)_mm512_madd_epi16((__m512i)(a), b))
#elif defined(__AVXVNNI__)
#define PAIRS(s, a, b) ((integers)_mm256_dpwssd_avx_epi32((__m256i)(s), (__m256i)(a), b))
#else
#define PAIRS(s, a, b) ((s) + (integers)_mm256_madd_epi16((__m256i)(a), b))
#endif
#if defined(__AVX512F__)
#define SAME(whole) _mm512_set1_epi32(whole)
#else
#define SAME(whole) _mm256_set1_epi32(whole)
#endif

typedef int32_t eight __attribute__((vector_size(GROUP * sizeof(int32_t)), aligned(sizeof(int32_t))));

/* Pairs of coordinates of a point. */
static long integer_pairs(long d) { return (d + 1) / 2; }

/* A panel of GROUP targets -> pairs of coordinates q, and the group's bound. Returns whether that is no number. */
static int integers_of_targets(const real *panel, const real *h, const real *mean, long d, int32_t *pairs, Bound *b) {
    octet offs = {0};
    real size, far, height;
    extent(panel, h, mean, d, &size, &far, &height);
    real scale = far > SHORT ? LENGTH / far : 0;
    b->beta = far > SHORT ? far / LENGTH : 0;
    for (long c = 0; c < 2 * integer_pairs(d); c++) {
        octet z = c < d ? *(const octet *)(panel + c * GROUP) - mean[c] : (octet){0}, q = NEAREST(z * scale);
        eight whole = __builtin_convertvector(q, eight), *out = (eight *)(pairs + c / 2 * GROUP);
        *out = c % 2 ? *out | whole << 16 : whole & 0xffff;
        offs += (z - q * b->beta) * (z - q * b->beta);
    }
    return bound(b, size, far, offs, height, d);
}

/* A panel of LANES samples -> pairs of coordinates p, and a question's sizes. */
static void integers_of_samples(const real *panel, long d, int32_t *pairs, Question *q) {
    for (long v = 0; v < VECTORS; v++) {
        const real *own = panel + v * WIDTH;
        vector size = {0}, away = {0};
        for (long c = 0; c < d; c++) size += *(const vector *)(own + c * LANES) * *(const vector *)(own + c * LANES);
        size = ROOT(size);
        mask some = GREATER(size, SPREAD(SHORT));
        vector scale = PICK(some, LENGTH / size, SPREAD(0)), alpha = PICK(some, size * (1 / LENGTH), SPREAD(0));
        for (long c = 0; c < d; c++) {
            vector x = *(const vector *)(own + c * LANES), p = NEAREST(x * scale);
            integers whole = __builtin_convertvector(p, integers), *out = (integers *)(pairs + c / 2 * LANES + v * WIDTH);
            *out = c % 2 ? *out | whole << 16 : whole & 0xffff;
            away += (x - p * alpha) * (x - p * alpha);
        }
        q->alpha[v] = alpha;
        q->away[v] = 1.001f * ROOT(away) + 0x1p-22f * size + SHORT;
        q->size[v] = 1.001f * size + SHORT;
    }
}

/* The scores of group g for a block of samples. */
INLINE void integer_scores(vector score[GROUP][VECTORS], const int32_t *x, const int32_t *y, const real *h, const Bound *bounds, long g,
                           long d, const Question *q) {
    long half = integer_pairs(d);
    y += g * GROUP * half, h += g * GROUP;
    for (int t0 = 0; t0 < GROUP; t0 += TILE) {
        integers s[TILE][VECTORS];
        EACH(s[t][v] = (integers){0})
        for (long p = 0; p < half; p++) {
            const integers *a = (const integers *)(x + p * LANES);
            integers a0 = a[0], a1 = a[1]; /* there is no register for the third */
            HOLD(a0);
            HOLD(a1);
            EACH(s[t][v] = PAIRS(s[t][v], v == 0 ? a0 : v == 1 ? a1 : a[2], SAME(y[p * GROUP + t0 + t])))
        }
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            vector scale = q->alpha[v] * bounds[g].beta;
#pragma GCC unroll 8
            for (int t = 0; t < TILE; t++) score[t0 + t][v] = __builtin_convertvector(s[t][v], vector) * scale + h[t0 + t];
        }
    }
}

/* The largest scores of groups g0..g1 for a block of samples. */
static void integer_tops(const int32_t *x, const int32_t *y, const real *h, const Bound *bounds, long g0, long g1, long d,
                         const Question *q, vector *top) {
    for (long g = g0; g < g1; g++, top += VECTORS) {
        vector score[GROUP][VECTORS];
        integer_scores(score, x, y, h, bounds, g, d, q);
        foremost(top, score);
    }
}
