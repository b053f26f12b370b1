/* The first pass in matrix tiles (AMX), which multiply integers of 8 bits eight times as fast as vectors multiply those of 16.
   x^ = alpha p and z^ = beta q as in integers.h, but each whole number is two digits, p = 256 p1 + p2, and <p, q> is

     65536 <p1, q1> + 256 (<p1, q2> + <p2, q1>)

   but for the product of the small digits. Targets are laid out as (q1, q2), and samples as (p1, 0) for the first sum and as (p2, p1)
   for the second, the zero left out where whole tiles are of it. */

#include <sys/syscall.h>
#include <unistd.h>

#define DEEP 16                 /* rows of a tile, of DEEP words each; a word holds four digits */
#define TOGETHER (DEEP / GROUP) /* groups that a tile of targets holds */
#define FULL 32512.0f           /* of the largest coordinate: its first digit is 127 */

typedef struct {
    integers high[DEEP][VECTORS], low[DEEP][VECTORS]; /* the two sums */
} Sums;

/* Whether the system lends us tiles: it must be asked once in each process. */
int tiles(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0; }

static void shape_tiles(void) {
    struct {
        uint8_t palette, start, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape __attribute__((aligned(64))) = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 64, shape.rows[t] = DEEP;
    _tile_loadconfig(&shape);
}

/* Words of so many parts of d digits, filled up to whole tiles. */
static long tile_words(long parts, long d) { return (parts * ((d + 3) / 4) + DEEP - 1) / DEEP * DEEP; }

/* A panel of GROUP targets -> its rows of tiles, and the group's bound. Returns whether that is no number. */
static int tiles_of_targets(const real *panel, const real *h, const real *mean, long d, long g, int32_t *tiled, Bound *b) {
    int32_t *rows = tiled + g / TOGETHER * DEEP * tile_words(2, d) + g % TOGETHER * GROUP * DEEP;
    long words = (d + 3) / 4;
    octet offs = {0}, largest = {0};
    real size, far, height, top = 0;
    extent(panel, h, mean, d, &size, &far, &height);
    for (long c = 0; c < d; c++) {
        octet z = *(const octet *)(panel + c * GROUP) - mean[c];
        largest = (octet)_mm256_max_ps((__m256)largest, _mm256_max_ps((__m256)z, (__m256)-z));
    }
    for (long t = 0; t < GROUP; t++) top = largest[t] > top ? largest[t] : top;
    real scale = top > SHORT ? FULL / top : 0;
    b->beta = top > SHORT ? top / FULL : 0;
    for (long w = 0; w < words; w++) {
        eight first = {0}, second = {0};
        for (long c = 4 * w; c < 4 * w + 4 && c < d; c++) {
            octet z = *(const octet *)(panel + c * GROUP) - mean[c], q = NEAREST(z * scale);
            eight whole = __builtin_convertvector(q, eight), high = (whole + 128) >> 8;
            first |= (high & 0xff) << 8 * (c % 4), second |= (whole & 0xff) << 8 * (c % 4);
            offs += (z - q * b->beta) * (z - q * b->beta);
        }
        for (long part = 0; part < 2; part++)
            for (long t = 0, at = part * words + w; t < GROUP; t++)
                rows[at / DEEP * DEEP * DEEP + t * DEEP + at % DEEP] = part ? second[t] : first[t];
    }
    return bound(b, size, far, offs, height, d);
}

/* A panel of LANES samples -> digits, those for the second sum first, and a question's sizes. */
static void tiles_of_samples(const real *panel, long d, int32_t *digits, Question *q) {
    long words = (d + 3) / 4, both = tile_words(2, d);
    memset(digits, 0, sizeof(int32_t) * LANES * (both + tile_words(1, d)));
    for (long v = 0; v < VECTORS; v++) {
        const real *own = panel + v * WIDTH;
        vector size = {0}, away = {0}, small = {0}, top = {0};
        for (long c = 0; c < d; c++) {
            vector x = *(const vector *)(own + c * LANES);
            size += x * x, top = MAX(MAX(x, -x), top);
        }
        mask some = GREATER(top, SPREAD(SHORT));
        vector scale = PICK(some, FULL / top, SPREAD(0)), alpha = PICK(some, top * (1 / FULL), SPREAD(0));
        for (long c = 0; c < d; c++) {
            vector x = *(const vector *)(own + c * LANES), p = NEAREST(x * scale);
            integers whole = __builtin_convertvector(p, integers), high = (whole + 128) >> 8, low = whole - (high << 8);
            integers *out = (integers *)(digits + c / 4 * LANES + v * WIDTH);
            long place = 8 * (c % 4);
            out[both * VECTORS] |= (high & 0xff) << place;
            out[words * VECTORS] |= (high & 0xff) << place;
            out[0] |= (low & 0xff) << place;
            vector left = x - p * alpha, digit = __builtin_convertvector(low, vector);
            away += left * left, small += digit * digit;
        }
        size = ROOT(size);
        q->alpha[v] = alpha;
        /* |beta q2| is at most 128 / FULL of sqrt(d) times the largest coordinate, and that at most |z| */
        q->away[v] = 1.001f * (ROOT(away) + 128 / FULL * __builtin_sqrtf(d) * alpha * ROOT(small)) + 0x1p-22f * size + SHORT;
        q->size[v] = 1.001f * size + SHORT;
    }
}

/* The sums of a block of samples and TOGETHER groups, of which g is the first. */
static void tile_sums(Sums *s, const int32_t *x, const int32_t *y, long g, long d) {
    long both = tile_words(2, d), one = tile_words(1, d);
    const int32_t *head = x + both * LANES;
    y += g / TOGETHER * DEEP * both;
    __asm__ volatile("" ::: "memory"); /* what was written must be seen: tile loads do not say that they read */
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
    for (long w = 0; w < both; w += DEEP, y += DEEP * DEEP, x += DEEP * LANES, head += DEEP * LANES) {
        _tile_loadd(6, y, 64);
        _tile_loadd(7, x, 4 * LANES); _tile_dpbssd(0, 6, 7);
        _tile_loadd(7, x + 16, 4 * LANES); _tile_dpbssd(1, 6, 7);
        _tile_loadd(7, x + 32, 4 * LANES); _tile_dpbssd(2, 6, 7);
        if (w >= one) continue;
        _tile_loadd(7, head, 4 * LANES); _tile_dpbssd(3, 6, 7);
        _tile_loadd(7, head + 16, 4 * LANES); _tile_dpbssd(4, 6, 7);
        _tile_loadd(7, head + 32, 4 * LANES); _tile_dpbssd(5, 6, 7);
    }
    _tile_stored(0, &s->low[0][0], 4 * LANES); _tile_stored(1, &s->low[0][1], 4 * LANES); _tile_stored(2, &s->low[0][2], 4 * LANES);
    _tile_stored(3, &s->high[0][0], 4 * LANES); _tile_stored(4, &s->high[0][1], 4 * LANES); _tile_stored(5, &s->high[0][2], 4 * LANES);
}

/* The scores of group g, which is one of those that the sums are of. */
INLINE void tile_scores(vector score[GROUP][VECTORS], const Sums *s, const real *h, const Bound *bounds, long g, const Question *q) {
    long t0 = g % TOGETHER * GROUP;
    h += g * GROUP;
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
        vector scale = q->alpha[v] * (256 * bounds[g].beta);
#pragma GCC unroll 8
        for (int t = 0; t < GROUP; t++)
            score[t][v] = __builtin_convertvector((s->high[t0 + t][v] << 8) + s->low[t0 + t][v], vector) * scale + h[t];
    }
}

/* The largest scores of groups g0..g1 for a block of samples; g0 begins a tile. (To make the next sums before these scores is no
   faster.) */
static void tile_tops(const int32_t *x, const int32_t *y, const real *h, const Bound *bounds, long g0, long g1, long d, const Question *q,
                      vector *top) {
    Sums s;
    for (long g = g0; g < g1; g++, top += VECTORS) {
        vector score[GROUP][VECTORS];
        if (g % TOGETHER == 0) tile_sums(&s, x, y, g, d);
        tile_scores(score, &s, h, bounds, g, q);
        foremost(top, score);
    }
}
