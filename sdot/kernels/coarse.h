/* A first pass with few bits, which processors multiply faster than floats, that leaves only groups of targets in question which may
   hold a sample's best. Their scores are then made in float32, by the same operations as everywhere, so the answer is the
   same number.

   With z = y - mean, and x^ and z^ near x and z, the scores h + <x, z> differ from those of the first pass by

     |<x, z> - <x^, z^>| <= |x - x^| |z| + |x^| |z - z^|,

   of which every norm is known, up to the rounding of float32 sums, KAPPA (|h| + |x| |y|) each. So group g of targets has upper
   and lower bounds  top +- (away far_g + size off_g + base_g)  of its largest score, and is out of question once its upper bound
   is below k lower ones. Where too many stay in question (points far from their mean, scores that nearly all tie), samples are
   swept in float32.

   There are two forms of x^ and z^: whole numbers of 16 bits (integers.h), and sums of two floats of 8 bits (tiles.h). Both keep
   samples as pairs of 16-bit numbers, LANES of them side by side. */

#define MANY 128      /* groups in question that a sample keeps at most */
#define MOST_COARSE 32 /* k up to which this is done */
#define SHORT 1e-15f  /* vectors of less are taken for zero */
#define LONG 1e18f    /* and vectors of more are not taken: their products are no numbers */
#define KAPPA(d) (((d) + 4) * 0x1p-23f)
#define LEAST_KEPT(q, k) ((const real *)((q)->low + ((k) - 1) * VECTORS)) /* by lane: below this a group is out of question */

typedef struct {
    real far, off, base, beta; /* beta: the unit of z^, of integers */
} Bound;

/* The bound of one group; offs: the squares of |z - z^|, by target; sums: what sums of products are wrong by. Returns whether it is
   no number. */
static int bound(Bound *b, real size, real far, octet offs, real sums, real height, long d) {
    real off = 0;
    for (long t = 0; t < GROUP; t++) off = offs[t] > off ? offs[t] : off;
    off = __builtin_sqrtf(off) + sums;
    b->far = 1.001f * far + SHORT;
    b->off = 1.005f * off + KAPPA(d) * (size + 2 * far) + SHORT;
    b->base = 2 * KAPPA(d) * height + 1e-28f;
    return !(far < LONG && b->off + b->base < __builtin_inff());
}

/* The longest of GROUP targets, before and after the mean is taken off, and the largest height that is a number. */
static void extent(const real *panel, const real *h, const real *mean, long d, real *size, real *far, real *height) {
    octet sizes = {0}, fars = {0};
    for (long c = 0; c < d; c++) {
        octet y = *(const octet *)(panel + c * GROUP), z = y - mean[c];
        sizes += y * y, fars += z * z;
    }
    *size = *far = *height = 0;
    for (long t = 0; t < GROUP; t++) { /* what is no number stays */
        if (!(sizes[t] <= *size)) *size = sizes[t];
        if (!(fars[t] <= *far)) *far = fars[t];
        if (h[t] != -__builtin_inff() && !(__builtin_fabsf(h[t]) <= *height)) *height = __builtin_fabsf(h[t]);
    }
    *size = __builtin_sqrtf(*size), *far = __builtin_sqrtf(*far);
}

typedef struct {
    vector alpha[VECTORS], away[VECTORS], size[VECTORS]; /* alpha: the unit of x^, of integers */
    vector low[MOST_COARSE * VECTORS];                   /* the k largest lower bounds, decreasing */
    int32_t held[LANES], group[MANY][LANES];             /* groups in question, in increasing order */
    real upper[MANY][LANES];
    int lost; /* some sample has too many, or is no number */
} Question;

static void open_question(Question *q, long k) {
    vector sum = {0};
    for (long v = 0; v < VECTORS; v++) sum += q->away[v] + q->size[v];
    for (long r = 0; r < k * VECTORS; r++) q->low[r] = SPREAD(-__builtin_inff());
    memset(q->held, 0, sizeof q->held);
    q->lost = !(_mm512_reduce_add_ps((__m512)sum) < LONG);
}

/* The largest of the scores of a group. */
INLINE void foremost(vector top[VECTORS], vector s[GROUP][VECTORS]) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
#pragma GCC unroll 4
        for (int rest = GROUP / 2; rest; rest /= 2)
#pragma GCC unroll 4
            for (int t = 0; t < rest; t++) s[t][v] = MAX(s[t + rest][v], s[t][v]);
        top[v] = s[0][v];
    }
}

/* Drop what is out of question by now. */
static void settle(Question *q, long k, long lane) {
    real low = LEAST_KEPT(q, k)[lane];
    long kept = 0;
    for (long r = 0; r < q->held[lane]; r++)
        if (q->upper[r][lane] >= low) q->group[kept][lane] = q->group[r][lane], q->upper[kept++][lane] = q->upper[r][lane];
    q->held[lane] = kept;
}

/* The largest scores of groups g0..g1 for a block of samples, as the first pass has them -> what is in question. */
static void judge(long k, vector *top, const Bound *bounds, long g0, long g1, long count, Question *q) {
    vector *out = top;
    for (long g = g0; g < g1; g++, out += VECTORS)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            vector error = q->away[v] * bounds[g].far + q->size[v] * bounds[g].off + bounds[g].base, down = out[v] - error;
            out[v] += error;
            if (k > 8 && !ANY(GREATER(down, q->low[(k - 1) * VECTORS + v]))) continue;
            for (long r = v; r < k * VECTORS; r += VECTORS) {
                vector low = q->low[r];
                q->low[r] = MAX(down, low), down = MIN(down, low);
            }
        }
    for (long g = g0; g < g1; g++, top += VECTORS)
        for (long v = 0; v < VECTORS; v++)
            for (mask m = _mm512_cmp_ps_mask((__m512)top[v], (__m512)q->low[(k - 1) * VECTORS + v], _CMP_GE_OQ); m; m &= m - 1) {
                long l = __builtin_ctz(m), lane = v * WIDTH + l;
                if (lane >= count) continue;
                if (q->held[lane] == MANY) settle(q, k, lane);
                if (q->held[lane] == MANY) {
                    q->lost = 1;
                    return;
                }
                q->group[q->held[lane]][lane] = g, q->upper[q->held[lane]++][lane] = top[v][l];
            }
}

/* Where the largest of GROUP numbers is, the first of them if it is there twice. */
static long largest(__m256 s) {
    __m256 top = _mm256_max_ps(s, _mm256_permute2f128_ps(s, s, 1));
    top = _mm256_max_ps(top, _mm256_shuffle_ps(top, top, 0x4e));
    top = _mm256_max_ps(top, _mm256_shuffle_ps(top, top, 0xb1));
    return __builtin_ctz(_mm256_movemask_ps(_mm256_cmp_ps(s, top, _CMP_EQ_OQ)));
}

static __m256 hide(__m256 s, long t) { return _mm256_mask_mov_ps(s, 1 << t, _mm256_set1_ps(-__builtin_inff())); }

/* The scores of GROUP targets each for up to WIDTH pairs of a sample and a group, then into the samples' lists. x: rows. */
static void answer(long k, const real *x, const real *y, const real *h, long d, long pairs, const int32_t *lane, const int32_t *group,
                   real *value, int64_t *index) {
    octet s[WIDTH];
    const real *own[WIDTH], *row[WIDTH];
    for (long l = 0; l < WIDTH; l++) {
        long j = l < pairs ? (long)group[l] * GROUP : 0;
        own[l] = y + j * d, row[l] = x + (l < pairs ? lane[l] * d : 0), s[l] = *(const octet *)(h + j);
    }
    for (long c = 0; c < d; c++)
#pragma GCC unroll 16
        for (long l = 0; l < WIDTH; l++) s[l] += *(const octet *)(own[l] + c * GROUP) * row[l][c];
    for (long l = 0; l < pairs; l++) {
        real *best = value + lane[l] * k;
        int64_t *where = index + lane[l] * k;
        __m256 left = _mm256_max_ps((__m256)s[l], _mm256_set1_ps(-__builtin_inff())); /* which is what becomes of NaN */
        for (long t, r; (t = largest(left)), ((octet)left)[t] > best[k - 1]; left = hide(left, t)) {
            real score = ((octet)left)[t];
            for (r = k - 1; r > 0 && score > best[r - 1]; r--) best[r] = best[r - 1], where[r] = where[r - 1];
            best[r] = score, where[r] = (int64_t)group[l] * GROUP + t;
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
            lane[pairs] = i, group[pairs++] = q->group[r][i];
            if (pairs == WIDTH) answer(k, x, y, h, d, pairs, lane, group, value, index), pairs = 0;
        }
    answer(k, x, y, h, d, pairs, lane, group, value, index);
    return all;
}
