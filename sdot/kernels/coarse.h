/* A first pass in 16-bit integers, of which a processor multiplies two in the time of one float, that leaves only groups in question which may hold a
   sample's best targets. Their scores are then made in float32, by the same operations as everywhere, so the answer is the
   same number.

   With z = y - mean, and x^ = alpha p, z^ = beta q for vectors of integers p and q, the scores h + <x, z> differ from those of
   the first pass, h + alpha beta <p, q>, by

     |<x, z> - <x^, z^>| <= |x - x^| |z| + |x^| |z - z^|,

   of which every norm is known, up to the rounding of float32 sums, KAPPA (|h| + |x| |y|) each. alpha and beta make |p| and |q|
   as long as sums of 32 bits allow, which leaves 1e-4 of |x| |z| in doubt. So group g of targets has upper and lower bounds
   top +- (away far_g + size off_g + base_g)  of its largest score, and is out of question once its upper bound is below k lower
   ones. Where too many stay in question (points far from their mean, scores that nearly all tie), samples are swept in
   float32. */

#define MANY 128      /* groups in question that a sample keeps at most */
#define MOST_COARSE 8 /* k up to which this is done */
#define LENGTH 32000.0f /* of p and q: coordinates fit 16 bits, |p| |q| fits 32 */
#define SHORT 1e-15f /* vectors of less are taken for zero */
#define KAPPA(d) (((d) + 4) * 0x1p-23f)
#define NEAREST(v) (((v) + SHIFTER) - SHIFTER) /* the nearest whole number */
#define LEAST_KEPT(q, k) ((const real *)((q)->low + ((k) - 1) * VECTORS)) /* by lane: below this a group is out of question */

typedef struct {
    real far, off, base, beta;
} Bound;

typedef int32_t eight __attribute__((vector_size(GROUP * sizeof(int32_t)), aligned(sizeof(int32_t))));

/* Panels of GROUP targets -> pairs of coordinates q and for every group its bound. Returns how many bounds are no numbers. */
long coarsen(const real *panels, const real *h, const real *mean, long groups, long d, int32_t *pairs, Bound *bounds) {
    long wrong = 0, half = (d + 1) / 2;
    for (long g = 0; g < groups; g++, panels += d * GROUP, h += GROUP, pairs += half * GROUP, bounds++) {
        octet sizes = {0}, fars = {0}, offs = {0};
        real size = 0, far = 0, off = 0, height = 0;
        for (long c = 0; c < d; c++) {
            octet y = *(const octet *)(panels + c * GROUP), z = y - mean[c];
            sizes += y * y, fars += z * z;
        }
        for (long t = 0; t < GROUP; t++) {
            size = sizes[t] > size ? sizes[t] : size, far = fars[t] > far ? fars[t] : far;
            if (h[t] != -__builtin_inff() && !(__builtin_fabsf(h[t]) <= height)) height = __builtin_fabsf(h[t]);
            wrong += !(sizes[t] + fars[t] < __builtin_inff());
        }
        size = __builtin_sqrtf(size), far = __builtin_sqrtf(far);
        real scale = far > SHORT ? LENGTH / far : 0, beta = far > SHORT ? far / LENGTH : 0;
        for (long c = 0; c < 2 * half; c++) {
            octet z = c < d ? *(const octet *)(panels + c * GROUP) - mean[c] : (octet){0}, q = NEAREST(z * scale);
            eight whole = __builtin_convertvector(q, eight), *out = (eight *)(pairs + c / 2 * GROUP);
            *out = c % 2 ? *out | whole << 16 : whole & 0xffff;
            offs += (z - q * beta) * (z - q * beta);
        }
        for (long t = 0; t < GROUP; t++) off = offs[t] > off ? offs[t] : off;
        bounds->far = 1.001f * far + SHORT;
        bounds->off = 1.005f * __builtin_sqrtf(off) + KAPPA(d) * (size + 2 * far) + SHORT;
        bounds->base = 2 * KAPPA(d) * height + 1e-28f;
        bounds->beta = beta;
        wrong += !(bounds->far + bounds->off + bounds->base < __builtin_inff());
    }
    return wrong;
}

typedef struct {
    vector alpha[VECTORS], away[VECTORS], size[VECTORS];
    vector low[MOST_COARSE * VECTORS];       /* the k largest lower bounds, decreasing */
    int32_t held[LANES], group[LANES][MANY]; /* groups in question, in increasing order */
    real upper[LANES][MANY];
    int lost; /* some sample has too many, or is no number */
} Question;

/* A panel of LANES samples -> pairs of coordinates p, and a question without bounds as yet. */
static void ask(const real *panel, long d, int32_t *pairs, long k, Question *q) {
    real sum = 0;
    for (long v = 0; v < VECTORS; v++) {
        const real *own = panel + v * WIDTH;
        vector size = {0}, away = {0};
        for (long c = 0; c < d; c++) size += *(const vector *)(own + c * LANES) * *(const vector *)(own + c * LANES);
        size = (vector)_mm512_sqrt_ps((__m512)size);
        mask some = GREATER(size, SPREAD(SHORT));
        vector scale = PICK(some, LENGTH / size, SPREAD(0)), alpha = PICK(some, size * (1 / LENGTH), SPREAD(0));
        for (long c = 0; c < d; c++) {
            vector x = *(const vector *)(own + c * LANES), p = NEAREST(x * scale);
            integers whole = (integers)_mm512_cvtps_epi32((__m512)p), *out = (integers *)(pairs + c / 2 * LANES + v * WIDTH);
            *out = c % 2 ? *out | whole << 16 : whole & 0xffff;
            away += (x - p * alpha) * (x - p * alpha);
        }
        q->alpha[v] = alpha;
        q->away[v] = 1.001f * (vector)_mm512_sqrt_ps((__m512)away) + 0x1p-22f * size + SHORT;
        q->size[v] = 1.001f * size + SHORT;
        sum += _mm512_reduce_add_ps((__m512)(q->away[v] + q->size[v]));
    }
    for (long r = 0; r < k * VECTORS; r++) q->low[r] = SPREAD(-__builtin_inff());
    memset(q->held, 0, sizeof q->held);
    q->lost = !(sum < __builtin_inff());
}

/* Drop what is out of question by now. */
static void settle(Question *q, long k, long lane) {
    real low = LEAST_KEPT(q, k)[lane];
    long kept = 0;
    for (long r = 0; r < q->held[lane]; r++)
        if (q->upper[lane][r] >= low) q->group[lane][kept] = q->group[lane][r], q->upper[lane][kept++] = q->upper[lane][r];
    q->held[lane] = kept;
}

/* Groups g0..g1 for a block of samples; `upper` is room for their upper bounds. */
static void coarse_sweep(long k, const int32_t *x, const int32_t *y, const real *h, const Bound *bounds, long g0, long g1, long half,
                         long count, vector *upper, Question *q) {
    vector *out = upper;
    for (long g = g0; g < g1; g++, out += VECTORS) {
        const int32_t *along = y + g * GROUP * half;
        integers s[GROUP][VECTORS];
        vector score[GROUP];
#pragma GCC unroll 8
        for (int t = 0; t < GROUP; t++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) s[t][v] = (integers){0};
        for (long p = 0; p < half; p++)
#pragma GCC unroll 8
            for (int t = 0; t < GROUP; t++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    s[t][v] = (integers)_mm512_dpwssd_epi32((__m512i)s[t][v], *(const __m512i *)(x + p * LANES + v * WIDTH),
                                                            _mm512_set1_epi32(along[p * GROUP + t]));
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            vector scale = q->alpha[v] * bounds[g].beta;
#pragma GCC unroll 8
            for (int t = 0; t < GROUP; t++) score[t] = (vector)_mm512_cvtepi32_ps((__m512i)s[t][v]) * scale + h[g * GROUP + t];
#pragma GCC unroll 4
            for (int rest = GROUP / 2; rest; rest /= 2)
#pragma GCC unroll 4
                for (int t = 0; t < rest; t++) score[t] = MAX(score[t + rest], score[t]);
            vector error = q->away[v] * bounds[g].far + q->size[v] * bounds[g].off + bounds[g].base, down = score[0] - error;
            out[v] = score[0] + error;
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
        octet last = best[k - 1] - (octet){0};
        for (int m = _mm256_movemask_ps((__m256)(s[l] > last)); m; m &= m - 1) {
            long t = __builtin_ctz(m), r = k;
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
        if (q->lost || !(LEAST_KEPT(q, k)[i] > -__builtin_inff())) return -1;
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
