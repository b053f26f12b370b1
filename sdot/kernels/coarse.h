/* A first pass in bfloat16, twice as fast as one in float32, that leaves only groups in question which may hold a sample's best
   targets. Their scores are then made in float32, by the same operations as everywhere, so the answer is the same number.

   With z = y - mean, and ^ for what is rounded to bfloat16, the scores h + <x, z> differ from those of the first pass by

     |<x, z> - <x^, z^>| <= |x - x^| |z| + |x^| |z - z^|,

   of which every norm is known, up to the rounding of float32 sums, KAPPA (|h| + |x| |y|) each. So group g of targets has
   upper and lower bounds  top -+ (away far_g + size off_g + base_g)  of its largest score, and is out of question once its
   upper bound is below k lower ones. Where too many stay in question (points far from their mean, scores that nearly all tie),
   samples are swept in float32. */

#define MANY 256 /* groups in question that a sample keeps at most */
#define MOST_COARSE 8 /* k up to which this is done */
#define KAPPA(d) (((d) + 4) * 0x1p-23f)

typedef uint32_t bits __attribute__((vector_size(BYTES)));
typedef uint32_t eight_bits __attribute__((vector_size(GROUP * sizeof(uint32_t)), aligned(sizeof(uint32_t))));
#define ROUNDED(b) (((b) + 0x7fffu + (((b) >> 16) & 1u)) & 0xffff0000u) /* to the nearest bfloat16, as float32 */

/* Panels of GROUP targets -> pairs of rounded coordinates of z, and for every group far, off and base. Returns how many groups
   have bounds that are no numbers. */
long coarsen(const real *panels, const real *h, const real *mean, long groups, long d, uint32_t *pairs, real *bounds) {
    long wrong = 0, half = (d + 1) / 2;
    for (long g = 0; g < groups; g++, panels += d * GROUP, h += GROUP, pairs += half * GROUP, bounds += 3) {
        octet size = {0}, far = {0}, off = {0};
        for (long c = 0; c < 2 * half; c++) {
            octet y = {0}, z, rounded;
            if (c < d) y = *(const octet *)(panels + c * GROUP);
            z = c < d ? y - mean[c] : y;
            eight_bits b = ROUNDED((eight_bits)z), *out = (eight_bits *)(pairs + c / 2 * GROUP);
            *out = c % 2 ? *out | b : b >> 16;
            rounded = z - (octet)b;
            size += y * y, far += z * z, off += rounded * rounded;
        }
        real most[3] = {0, 0, 0}, height = 0;
        for (long t = 0; t < GROUP; t++) {
            most[0] = size[t] > most[0] ? size[t] : most[0], most[1] = far[t] > most[1] ? far[t] : most[1];
            most[2] = off[t] > most[2] ? off[t] : most[2];
            if (h[t] != -__builtin_inff() && __builtin_fabsf(h[t]) > height) height = __builtin_fabsf(h[t]);
            if (h[t] != h[t]) height = h[t];
        }
        for (long q = 0; q < 3; q++) most[q] = 1.001f * __builtin_sqrtf(most[q]);
        bounds[0] = most[1];
        bounds[1] = 1.005f * most[2] + KAPPA(d) * (most[0] + 2 * most[1]);
        bounds[2] = 2 * KAPPA(d) * height + 1e-30f;
        wrong += !(size[0] + size[1] + size[2] + size[3] + size[4] + size[5] + size[6] + size[7] < __builtin_inff()) ||
                 !(bounds[0] + bounds[1] + bounds[2] < __builtin_inff());
    }
    return wrong;
}

/* A panel of LANES samples -> pairs of rounded coordinates, |x - x^| and |x|. Returns whether all of them are numbers. */
static int coarsen_samples(const real *panel, long d, uint32_t *pairs, vector away[VECTORS], vector size[VECTORS]) {
    real sum = 0;
    for (long v = 0; v < VECTORS; v++) {
        vector a = {0}, s = {0};
        for (long c = 0; c < d; c++) {
            vector x = *(const vector *)(panel + c * LANES + v * WIDTH);
            bits b = ROUNDED((bits)x), *out = (bits *)(pairs + c / 2 * LANES + v * WIDTH);
            *out = c % 2 ? *out | b : b >> 16;
            a += (x - (vector)b) * (x - (vector)b), s += x * x;
        }
        away[v] = 1.001f * (vector)_mm512_sqrt_ps((__m512)a), size[v] = 1.001f * (vector)_mm512_sqrt_ps((__m512)s);
        sum += _mm512_reduce_add_ps((__m512)(away[v] + size[v]));
    }
    return sum < __builtin_inff();
}

typedef struct {
    vector away[VECTORS], size[VECTORS], low[MOST_COARSE * VECTORS]; /* low: the k largest lower bounds, decreasing */
    int32_t held[LANES], group[LANES][MANY];                         /* groups in question, in increasing order */
    real upper[LANES][MANY];
    int lost; /* some sample has too many, or is no number */
} Question;

/* Drop what is out of question by now. */
static void settle(Question *q, long k, long lane) {
    real low = ((const real *)(q->low + (k - 1) * VECTORS))[lane];
    long kept = 0;
    for (long r = 0; r < q->held[lane]; r++)
        if (q->upper[lane][r] >= low) q->group[lane][kept] = q->group[lane][r], q->upper[lane][kept++] = q->upper[lane][r];
    q->held[lane] = kept;
}

static void coarse_sweep(long k, const uint32_t *x, const uint32_t *y, const real *h, const real *bounds, long g0, long g1, long half,
                         long count, vector *upper, Question *q) {
    vector *out = upper;
    for (long g = g0; g < g1; g++, out += VECTORS) {
        const uint32_t *along = y + g * GROUP * half;
        vector s[GROUP][VECTORS];
#pragma GCC unroll 8
        for (int t = 0; t < GROUP; t++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) s[t][v] = SPREAD(h[g * GROUP + t]);
        for (long p = 0; p < half; p++) {
#pragma GCC unroll 8
            for (int t = 0; t < GROUP; t++) {
                __m512bh b = (__m512bh)_mm512_set1_epi32(along[p * GROUP + t]);
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    s[t][v] = (vector)_mm512_dpbf16_ps((__m512)s[t][v], (__m512bh)*(const bits *)(x + p * LANES + v * WIDTH), b);
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
#pragma GCC unroll 4
            for (int rest = GROUP / 2; rest; rest /= 2)
#pragma GCC unroll 4
                for (int t = 0; t < rest; t++) s[t][v] = MAX(s[t + rest][v], s[t][v]);
            vector error = q->away[v] * bounds[3 * g] + q->size[v] * bounds[3 * g + 1] + bounds[3 * g + 2], down = s[0][v] - error;
            out[v] = s[0][v] + error;
            for (long r = v; r < k * VECTORS; r += VECTORS) {
                vector low = q->low[r];
                q->low[r] = MAX(down, low), down = MIN(down, low);
            }
        }
    }
    for (long g = g0; g < g1; g++, upper += VECTORS)
        for (long v = 0; v < VECTORS; v++)
            for (mask m = _mm512_cmp_ps_mask((__m512)upper[v], (__m512)q->low[(k - 1) * VECTORS + v], _CMP_GE_OQ); m; m &= m - 1) {
                long l = __builtin_ctz(m), lane = v * WIDTH + l;
                if (lane >= count) continue;
                if (q->held[lane] == MANY) settle(q, k, lane);
                if (q->held[lane] == MANY) {
                    q->lost = 1;
                    return;
                }
                q->group[lane][q->held[lane]] = g, q->upper[lane][q->held[lane]++] = upper[v][l];
            }
}

/* The scores of GROUP targets each for up to WIDTH pairs of a sample and a group, then into the samples' lists. */
static void answer(long k, const real *x, const real *y, const real *h, long d, long pairs, const int32_t *lane, const int32_t *group,
                   real *value, int64_t *index) {
    octet s[WIDTH];
    const real *own[WIDTH], *row[WIDTH];
    for (long l = 0; l < WIDTH; l++) {
        long j = l < pairs ? (long)group[l] * GROUP : 0;
        own[l] = y + j * d, row[l] = x + (l < pairs ? lane[l] : 0), s[l] = *(const octet *)(h + j);
    }
    for (long c = 0; c < d; c++)
#pragma GCC unroll 16
        for (long l = 0; l < WIDTH; l++) s[l] += *(const octet *)(own[l] + c * GROUP) * row[l][c * LANES];
    for (long l = 0; l < pairs; l++) {
        real *best = value + lane[l] * k;
        int64_t *where = index + lane[l] * k;
        for (long t = 0; t < GROUP; t++) {
            long r = k;
            for (; r > 0 && s[l][t] > best[r - 1]; r--)
                if (r < k) best[r] = best[r - 1], where[r] = where[r - 1];
            if (r < k) best[r] = s[l][t], where[r] = (int64_t)group[l] * GROUP + t;
        }
    }
}

/* All that is in question for a block of samples. Returns how much that was, or -1 where the block must be swept in float32. */
static long answer_all(long k, const real *x, const real *y, const real *h, long d, long count, Question *q, real *value, int64_t *index) {
    int32_t lane[WIDTH], group[WIDTH];
    long pairs = 0, all = 0;
    for (long i = 0; i < count; i++) {
        if (q->lost || !(((const real *)(q->low + (k - 1) * VECTORS))[i] > -__builtin_inff())) return -1;
        settle(q, k, i);
        for (long r = 0; r < k; r++) value[i * k + r] = -__builtin_inff(), index[i * k + r] = -1;
    }
    for (long i = 0; i < count; i++)
        for (long r = 0; r < q->held[i]; r++, all++) {
            lane[pairs] = i, group[pairs++] = q->group[i][r];
            if (pairs == WIDTH) answer(k, x, y, h, d, pairs, lane, group, value, index), pairs = 0;
        }
    answer(k, x, y, h, d, pairs, lane, group, value, index);
    return all;
}
