/* A first pass with few bits, which processors multiply faster than floats, that leaves only groups of targets in question which may
   hold a sample's best. Their scores are then made in float32, by the same operations as everywhere, so the answer is the
   same number.

   With z = y - mean, and x^ and z^ near x and z, the scores h + <x, z> differ from those of the first pass by

     |<x, z> - <x^, z^>| <= |x - x^| |z| + |x^| |z - z^|,

   of which every norm is known, up to the rounding of float32 sums, KAPPA (|h| + |x| |y|) each. So group g of targets has upper
   and lower bounds  top +- (away far_g + size off_g + base_g)  of its largest score, and is out of question once its upper bound
   is below k lower ones. Where too many stay in question (points far from their mean, scores that nearly all tie), samples are
   swept in float32.

   x^ and z^ are whole numbers of 16 bits times a unit: as they are (integers.h), or as two digits of 8 bits (tiles.h). */

#define MANY 128      /* groups in question that a sample keeps at most */
#define MOST_COARSE 32 /* k up to which this is done */
#define SHORT 1e-15f  /* vectors of less are taken for zero */
#define LONG 1e18f    /* and vectors of more are not taken: their products are no numbers */
#define KAPPA(d) (((d) + 4) * 0x1p-23f)
#define AT_ONCE 6     /* pairs of a sample and a group that are scored side by side */
#define PAIRS_KEPT 498 /* at once, MANY or more, in multiples of AT_ONCE: their scores fit a cache */
#define LEAST_KEPT(q, k) ((const real *)((q)->low + ((k) - 1) * VECTORS)) /* by lane: below this a group is out of question */

typedef struct {
    real far, off, base, beta; /* beta: the unit of z^ */
} Bound;

/* The bound of one group; offs: the squares of |z - z^|, by target. Returns whether it is no number. */
static int bound(Bound *b, real size, real far, octet offs, real height, long d) {
    real off = 0;
    for (long t = 0; t < GROUP; t++) off = offs[t] > off ? offs[t] : off;
    b->far = 1.001f * far + SHORT;
    b->off = 1.005f * __builtin_sqrtf(off) + KAPPA(d) * (size + 2 * far) + SHORT;
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
    vector alpha[VECTORS], away[VECTORS], size[VECTORS]; /* alpha: the unit of x^ */
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
    real all = 0;
    for (long l = 0; l < WIDTH; l++) all += sum[l];
    q->lost = !(all < LONG);
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
    for (long r = 0; r < q->held[lane]; r++) { /* no branch: it would be guessed */
        real upper = q->upper[r][lane];
        q->group[kept][lane] = q->group[r][lane], q->upper[kept][lane] = upper;
        kept += upper >= low;
    }
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
    for (long g = g0; g < g1; g++, top += VECTORS) {
        uint64_t open = 0; /* lanes: one test for all of them */
#pragma GCC unroll 4
        for (long v = 0; v < VECTORS; v++)
            open |= (uint64_t)BITS(COMPARE(top[v], q->low[(k - 1) * VECTORS + v], _CMP_GE_OQ)) << v * WIDTH;
        for (; open; open &= open - 1) {
            long lane = __builtin_ctzll(open);
            if (lane >= count) break;
            if (q->held[lane] == MANY) settle(q, k, lane);
            if (q->held[lane] == MANY) {
                q->lost = 1;
                return;
            }
            q->group[q->held[lane]][lane] = g, q->upper[q->held[lane]++][lane] = ((const real *)top)[lane];
        }
    }
}

static __m256 hide(__m256 s, long t) {
    __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(s, _mm256_set1_ps(-__builtin_inff()), (__m256)_mm256_cmpeq_epi32(places, _mm256_set1_epi32(t)));
}

/* The scores of AT_ONCE pairs of a sample and a group of targets: the same operations in the same order as in `multiply`. */
static void score_pairs(const real *x, const real *y, const real *h, long d, const int32_t *sample, const int32_t *group, octet *s) {
    const real *row[AT_ONCE], *panel[AT_ONCE];
    octet sum[AT_ONCE];
#pragma GCC unroll 8
    for (long p = 0; p < AT_ONCE; p++) {
        long j = (long)group[p] * GROUP;
        row[p] = x + sample[p] * d, panel[p] = y + j * d, sum[p] = *(const octet *)(h + j);
    }
    for (long c = 0; c < d; c++)
#pragma GCC unroll 8
        for (long p = 0; p < AT_ONCE; p++) /* said so, or it may become a product and a sum, which is rounded twice */
            sum[p] = (octet)_mm256_fmadd_ps((__m256) * (const octet *)(panel[p] + c * GROUP), _mm256_set1_ps(row[p][c]), (__m256)sum[p]);
#pragma GCC unroll 8
    for (long p = 0; p < AT_ONCE; p++) s[p] = (octet)_mm256_max_ps((__m256)sum[p], _mm256_set1_ps(-__builtin_inff())); /* no NaN */
}

/* The k best of a sample's groups, which come in increasing order: ties stay at the lowest index. Reads `wide` scores at once, also
   beyond the sample's own. */
INLINE void choose(long k, long wide, octet *s, const int32_t *group, long groups, real *value, int64_t *index) {
    for (long r = 0; r < k; r++) {
        __m256 top = (__m256)s[0];
        for (long l = 1; l < groups; l++) top = _mm256_max_ps((__m256)s[l], top);
        top = _mm256_max_ps(top, _mm256_permute2f128_ps(top, top, 1));
        top = _mm256_max_ps(top, _mm256_shuffle_ps(top, top, 0x4e));
        top = _mm256_max_ps(top, _mm256_shuffle_ps(top, top, 0xb1));
        uint64_t where = 0; /* the first that is as large */
        long first = 0;
        for (;; first += wide) {
#pragma GCC unroll 8
            for (long l = 0; l < wide; l++)
                where |= (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)s[first + l], top, _CMP_EQ_OQ)) << GROUP * l;
            if (where) break;
        }
        long place = __builtin_ctzll(where), l = first + place / GROUP;
        value[r] = ((octet)top)[0], index[r] = (int64_t)group[l] * GROUP + place % GROUP;
        s[l] = (octet)hide((__m256)s[l], place % GROUP);
    }
}

/* All that is in question for a block of samples. Returns how much that was, or -1 where the block must be swept in float32. */
static long answer_all(long k, const real *x, const real *y, const real *h, long d, long count, Question *q, real *value, int64_t *index) {
    int32_t sample[PAIRS_KEPT + AT_ONCE], group[PAIRS_KEPT + AT_ONCE];
    octet s[PAIRS_KEPT + GROUP];
    long all = 0;
    for (long i = 0; i < count; i++)
        if (q->lost || !(LEAST_KEPT(q, k)[i] > -__builtin_inff())) return -1;
    for (long i = 0, end = 0; i < count; i = end) {
        long pairs = 0;
        for (; end < count && pairs + q->held[end] <= PAIRS_KEPT; end++) {
            long first = pairs;
            for (long r = 0; r < q->held[end]; r++) {
                sample[pairs] = end, group[pairs] = q->group[r][end];
                pairs += q->upper[r][end] >= LEAST_KEPT(q, k)[end];
            }
            q->held[end] = pairs - first;
        }
        for (long p = 0; p < AT_ONCE; p++) sample[pairs + p] = i, group[pairs + p] = 0; /* any, to fill up */
        for (long p = 0; p < pairs; p += AT_ONCE) score_pairs(x, y, h, d, sample + p, group + p, s + p);
        for (long p = 0; i < end; p += q->held[i++])
            if (k <= 2) choose(k, 2, s + p, group + p, q->held[i], value + i * k, index + i * k);
            else choose(k, 8, s + p, group + p, q->held[i], value + i * k, index + i * k);
        all += pairs;
    }
    return all;
}
