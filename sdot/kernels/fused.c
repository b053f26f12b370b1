/* The scores h_j + <x_i, y_j>, reduced in registers as they are made. fused.py compiles this once for float and once for double.

   A block of scores is an outer product: the points of one side lie across the lanes of vectors (LANES points), those of the
   other side are broadcast one by one (GROUP points). For topk the lanes are samples, for the soft sums they are targets.
   Every function runs on one thread over the rows it is given; fused.py divides the rows among threads. */

#include "vectors.h"
#include "soft.h"

/* ---- topk: the lanes are samples --------------------------------------------------------------------------------------- */

#define BLOCKS 16 /* blocks of samples that are held against a stretch of targets while it is in the cache */

/* Where one vector after the other is faster (measured): that leaves registers for lists of the two best. */
#define NARROW(k, d) (BYTES == 64 && (k) == 2 && __builtin_constant_p(d) && (d) <= 3)

#define HOLD_FOR(k, d) (!__builtin_constant_p(d) || ((k) == 1 && (d) > 3)) /* measured */

/* The largest score of every sample within one group of targets. */
INLINE void group_maximum(vector top[VECTORS], const real *x, const real *y, const real *h, long d, int narrow, int hold) {
    if (narrow) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
#pragma GCC unroll 8
            for (int t = 0; t < GROUP; t++) {
                vector s = SPREAD(h[t]);
#pragma GCC unroll 4
                for (long c = 0; c < d; c++) s += ((const vector *)(x + c * LANES))[v] * y[c * GROUP + t];
                if (t) top[v] = MAX(s, top[v]);
                else top[v] = s;
            }
        }
        return;
    }
#pragma GCC unroll 2
    for (int t0 = 0; t0 < GROUP; t0 += TILE) {
        vector s[TILE][VECTORS];
        EACH(s[t][v] = SPREAD(h[t0 + t]))
        multiply(s, x, y + t0, d, hold);
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
   on, all move down a place; at equal s whoever came first stays ahead. (To keep the maxima of all groups and look for the k best
   afterwards is no faster.) */
INLINE void insert(long k, vector *best, vector *tags, vector s, vector tag) {
    if (k > 2 && !ANY(GREATER(s, best[(k - 1) * VECTORS]))) return; /* most often, once the list is full */
    vector down = s;
#pragma GCC unroll 2
    for (long r = 0; r < k * VECTORS; r += VECTORS) {
        vector b = best[r], t = tags[r];
        mask moves = GREATER(s, b);
        best[r] = MAX(down, b);
        tags[r] = PICK(moves, tag, t);
        down = MIN(b, down);
        tag = PICK(moves, t, tag);
    }
}

/* One block of samples against the groups g0..g1. Keeps the k groups with the largest maxima, ties to the first group: the k
   best targets lie in those groups, and `look_inside` finds them there. Group numbers are kept as reals. */
INLINE void sweep(long k, const real *x, const real *y, const real *h, long g0, long g1, long d, vector *best, vector *where) {
    for (long g = g0; g < g1; g++) {
        vector top[VECTORS];
        group_maximum(top, x, y + g * GROUP * d, h + g * GROUP, d, NARROW(k, d), HOLD_FOR(k, d));
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

/* The k best of n samples. y: panels of GROUP targets; h: filled up with -inf. Returns a negative number where there is no memory. */
int topk(const real *x, long n, long d, const real *y, const real *h, long m, long k, real *value, int64_t *index) {
    long groups = (m + GROUP - 1) / GROUP, step = STRETCH / (long)sizeof(real) / (GROUP * (d + 1)) + 1;
    long list = k * LANES, block = d * LANES;
    real *packed = aligned_alloc(BYTES, sizeof(real) * (BLOCKS * (block + 2 * list) + 2 * list));
    if (!packed) return -1;
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

#if !DOUBLE
/* ---- above: all pairs whose score is at least what the sample asks for ------------------------------------------------------- */

typedef struct {
    long count, room; /* count: of pairs that were found, also where there is no room for them */
    int64_t *sample, *target;
} Pairs;

/* Of the scores of group g and the samples from i0 on those that exceed `below`. */
INLINE void collect(Pairs *found, long i0, long g, vector s[GROUP][VECTORS], const vector below[VECTORS]) {
#pragma GCC unroll 4
    for (long v = 0; v < VECTORS; v++) {
        vector top = s[0][v];
#pragma GCC unroll 8
        for (long t = 1; t < GROUP; t++) top = MAX(s[t][v], top);
        if (!ANY(GREATER(top, below[v]))) continue;
        for (long t = 0; t < GROUP; t++)
            for (unsigned bits = BITS(GREATER(s[t][v], below[v])); bits; bits &= bits - 1)
                if (found->count++ < found->room) {
                    found->sample[found->count - 1] = i0 + v * WIDTH + __builtin_ctz(bits);
                    found->target[found->count - 1] = g * GROUP + t;
                }
    }
}

/* What `count` samples ask for, rounded down, of scores less <x, mean> if there is a mean. Places without a sample ask for too much. */
static void ask(vector below[VECTORS], const real *x, const real *least, long count, const real *mean, long d) {
    for (long l = 0; l < LANES; l++) {
        double bound = __builtin_inf(), common = 0;
        if (l < count) bound = least[l] - 1e-6 * __builtin_fabs(least[l]) - 1e-30;
        for (long c = 0; mean && l < count && c < d; c++) common += (double)mean[c] * x[l * d + c];
        below[l / WIDTH][l % WIDTH] = bound - common - 1e-6 * __builtin_fabs(common);
    }
}

/* Samples i0, i0 + 1, ..., `count` of them, which are packed too, against all groups. */
static void collect_block(Pairs *found, long i0, long count, const real *x, const real *packed, const real *y, const real *h, long groups,
                          long d, const real *least) {
    vector s[GROUP][VECTORS], below[VECTORS];
    ask(below, x, least, count, NULL, d);
    for (long g = 0; g < groups; g++, y += GROUP * d, h += GROUP) {
#pragma GCC unroll 2
        for (long t0 = 0; t0 < GROUP; t0 += TILE) {
            EACH(s[t0 + t][v] = SPREAD(h[t0 + t]))
            multiply(s + t0, packed, y + t0, d, 1);
        }
        collect(found, i0, g, s, below);
    }
}

/* All pairs of n samples and m targets, in panels, with a score of at least `least` of the sample, and some that miss it by rounding.
   Returns how many there are; where they are more than `room`, the others are missing. Negative where there is no memory. */
long above(const real *x, long n, long d, const real *y, const real *h, long m, const real *least, long room, int64_t *sample, int64_t *target) {
    Pairs found = {0, room, sample, target};
    real *packed = aligned_alloc(BYTES, sizeof(real) * d * LANES);
    if (!packed) return -1;
    for (long i = 0; i < n; i += LANES) {
        long count = n - i < LANES ? n - i : LANES;
        pack(x + i * d, count, d, LANES, 1, packed);
        collect_block(&found, i, count, x + i * d, packed, y, h, (m + GROUP - 1) / GROUP, d, least + i);
    }
    free(packed);
    return found.count;
}
#endif

#if !DOUBLE && (defined(__AVX512BW__) || BYTES == 32)
#include "coarse.h"
#include "integers.h"
#if defined(__AMX_INT8__) && defined(__linux__)
#include "tiles.h"
#else
typedef int Sums;
int tiles(void) { return 0; }
#define TOGETHER 1
#define shape_tiles()
#define _tile_release()
#define tile_words(...) 0
#define tiles_of_targets(...) 1
#define tiles_of_samples(...)
#define tile_tops(...)
#define tile_sums(...)
#define tile_scores(...)
#endif

/* Words of 32 bits that a target takes in either form of the first pass, and a sample. */
long coarse_words(int tiled, long d) { return tiled ? tile_words(2, d) : integer_pairs(d); }
static long sample_words(int tiled, long d) { return tiled ? tile_words(2, d) + tile_words(1, d) : integer_pairs(d); }

/* The mean of targets in panels, nearly: any place in the middle of them will do. */
void middle(const real *panels, long groups, long d, real *mean) {
    memset(mean, 0, sizeof(real) * d);
    for (long g = 0, step = groups / 256 + 1; g < groups; g += step)
        for (long c = 0; c < d; c++)
            for (long t = 0; t < GROUP; t++) mean[c] += panels[(g * d + c) * GROUP + t] / (((groups - 1) / step + 1) * GROUP);
}

/* Panels of targets -> short numbers, and a bound for every group. Returns how many bounds are no numbers. */
long coarsen(int tiled, const real *panels, const real *h, long groups, long d, const real *mean, int32_t *words, Bound *bounds) {
    long wrong = 0, size = GROUP * coarse_words(tiled, d);
    if (tiled) /* what is in no target's place */
        memset(words, 0, sizeof(int32_t) * size * ((groups + TOGETHER - 1) / TOGETHER * TOGETHER));
    for (long g = 0; g < groups; g++, panels += d * GROUP, h += GROUP)
        wrong += tiled ? tiles_of_targets(panels, h, mean, d, g, words, bounds + g)
                       : integers_of_targets(panels, h, mean, d, words + g * size, bounds + g);
    return wrong;
}

/* The same k best by way of a first pass; words and bounds are what `coarsen` wrote. Returns a negative number where there is no memory. */
int coarse_topk(int tiled, const real *x, long n, long d, const real *y, const real *h, long m, long k, real *value, int64_t *index,
                const int32_t *words, const Bound *bounds) {
    long groups = (m + GROUP - 1) / GROUP, width = coarse_words(tiled, d), useless = 0;
    long block = d * LANES, coarse = sample_words(tiled, d) * LANES;
    long step = STRETCH / (long)sizeof(real) / (GROUP * (width + 1)) / TOGETHER * TOGETHER + TOGETHER;
    real *packed = aligned_alloc(BYTES, sizeof(real) * (BLOCKS * (block + coarse) + step * LANES));
    Question *questions = aligned_alloc(BYTES, sizeof(Question) * BLOCKS);
    int failed = !packed || !questions;
    if (tiled) shape_tiles();
    for (long i0 = 0; i0 < n && !failed; i0 += BLOCKS * LANES, x += BLOCKS * block, value += BLOCKS * LANES * k, index += BLOCKS * LANES * k) {
        long count = n - i0 < BLOCKS * LANES ? n - i0 : BLOCKS * LANES, blocks = (count + LANES - 1) / LANES, all = 0;
        if (useless) {
            failed = topk(x, n - i0, d, y, h, m, k, value, index);
            break;
        }
        int32_t *short_x = (int32_t *)(packed + BLOCKS * block);
        vector *top = (vector *)(short_x + BLOCKS * coarse);
        pack(x, count, d, LANES, 1, packed);
        for (long b = 0; b < blocks; b++) {
            if (tiled) tiles_of_samples(packed + b * block, d, short_x + b * coarse, questions + b);
            else integers_of_samples(packed + b * block, d, short_x + b * coarse, questions + b);
            open_question(questions + b, k);
        }
        for (long g = 0; g < groups; g += step)
            for (long b = 0, end = g + step < groups ? g + step : groups; b < blocks; b++)
                if (!questions[b].lost) {
                    if (tiled) tile_tops(short_x + b * coarse, words, h, bounds, g, end, d, questions + b, top);
                    else integer_tops(short_x + b * coarse, words, h, bounds, g, end, d, questions + b, top);
                    judge(k, top, bounds, g, end, count - b * LANES, questions + b);
                }
        for (long b = 0; b < blocks && !failed; b++) {
            long i = b * LANES, some = count - i < LANES ? count - i : LANES;
            long asked = answer_all(k, x + i * d, y, h, d, some, questions + b, value + i * k, index + i * k);
            if (asked < 0) failed = topk(x + i * d, some, d, y, h, m, k, value + i * k, index + i * k);
            all += asked < 0 ? some * groups : asked;
        }
        useless = all > count * groups / 8 + 8 * k * count;
    }
    if (tiled) _tile_release();
    free(packed), free(questions);
    return failed ? -1 : 0;
}

/* `above`, decided by the first pass, with more that miss it by rounding; mean: as `coarsen` left it. */
long coarse_above(int tiled, const real *x, long n, long d, const real *y, const real *h, long m, const real *least, long room,
                  int64_t *sample, int64_t *target, const int32_t *words, const Bound *bounds, const real *mean) {
    Pairs found = {0, room, sample, target};
    long groups = (m + GROUP - 1) / GROUP;
    real *packed = aligned_alloc(BYTES, sizeof(real) * LANES * (d + sample_words(tiled, d)));
    Question *q = aligned_alloc(BYTES, sizeof(Question));
    if (packed && q) {
        int32_t *short_x = (int32_t *)(packed + d * LANES);
        vector s[GROUP][VECTORS], below[VECTORS], lower[VECTORS];
        Sums sums;
        if (tiled) shape_tiles();
        for (long i = 0; i < n; i += LANES, x += d * LANES) {
            long count = n - i < LANES ? n - i : LANES;
            pack(x, count, d, LANES, 1, packed);
            if (tiled) tiles_of_samples(packed, d, short_x, q);
            else integers_of_samples(packed, d, short_x, q);
            open_question(q, 0);
            if (q->lost) {
                collect_block(&found, i, count, x, packed, y, h, groups, d, least + i);
                continue;
            }
            ask(below, x, least + i, count, mean, d);
            for (long g = 0; g < groups; g++) {
                if (tiled && g % TOGETHER == 0) tile_sums(&sums, short_x, words, g, d);
                if (tiled) tile_scores(s, &sums, h, bounds, g, q);
                else integer_scores(s, short_x, words, h, bounds, g, d, q);
                for (long v = 0; v < VECTORS; v++) lower[v] = below[v] - (q->away[v] * bounds[g].far + q->size[v] * bounds[g].off + bounds[g].base);
                collect(&found, i, g, s, lower);
            }
        }
        if (tiled) _tile_release();
    } else found.count = -1;
    free(packed), free(q);
    return found.count;
}
#endif
