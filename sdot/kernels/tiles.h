/* The first pass in matrix tiles (AMX), which multiply floats of 8 bits 16 times as fast as vectors multiply those of 24. A number
   is the sum of two of them but for 2^-17 of it, x = x1 + x2 + ..., and <x, z> is  <x1, z1> + <x1, z2> + <x2, z1>  but for the
   product of the two small ones: one sum over 3 d coordinates,

     of samples (x1, x1, x2),    of targets (z1, z2, z1),

   rounded as sums of float32 are. */

#include <sys/syscall.h>
#include <unistd.h>

#define DEEP 16                     /* rows of a tile, of DEEP pairs each */
#define TOGETHER (2 * DEEP / GROUP) /* groups that two tiles of targets hold */
#define BRIEF(v) (((v) + 0x7fff + ((v) >> 16 & 1)) >> 16 << 16) /* the nearest float of 8 bits, as bits */

typedef uint32_t eight_bits __attribute__((vector_size(GROUP * sizeof(int32_t)), aligned(sizeof(int32_t))));
typedef uint32_t bits __attribute__((vector_size(BYTES)));

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

/* Pairs of coordinates of a point, whole tiles of them. */
static long tile_pairs(long d) { return (3 * d + 31) / 32 * DEEP; }

/* `count` numbers of a target to the coordinates from `at` on of its row of tiles. */
INLINE void lay(uint16_t *row, long at, const uint16_t *numbers, long count) {
    for (long some; count; count -= some, at += some, numbers += some) {
        uint16_t *place = row + at / 32 * DEEP * 32 + at % 32;
        some = 32 - at % 32 < count ? 32 - at % 32 : count;
        if (some == 16) memcpy(place, numbers, 32);
        else memcpy(place, numbers, 2 * some);
    }
}

/* A panel of GROUP targets -> its rows of tiles, and the group's bound. Returns whether that is no number. */
static int tiles_of_targets(const real *panel, const real *h, const real *mean, long d, long g, int32_t *tiled, Bound *b) {
    uint16_t *row = (uint16_t *)(tiled + g / 2 * DEEP * tile_pairs(d)) + g % 2 * GROUP * 32;
    octet offs = {0};
    real size, far, height;
    extent(panel, h, mean, d, &size, &far, &height);
    for (long c0 = 0; c0 < d; c0 += 16) {
        long count = d - c0 < 16 ? d - c0 : 16;
        eight_bits pairs[2][8] = {0};
        uint32_t runs[2][GROUP][8];
        for (long c = 0; c < count; c++) {
            octet z = *(const octet *)(panel + (c0 + c) * GROUP) - mean[c0 + c];
            eight_bits first = BRIEF((eight_bits)z), second = BRIEF((eight_bits)(z - (octet)first));
            octet rest = z - (octet)first - (octet)second;
            offs += rest * rest;
            pairs[0][c / 2] |= c % 2 ? first : first >> 16, pairs[1][c / 2] |= c % 2 ? second : second >> 16;
        }
        for (long v = 0; v < 2; v++)
            for (long t = 0; t < GROUP; t++)
                for (long p = 0; p < 8; p++) runs[v][t][p] = pairs[v][p][t];
        for (long part = 0; part < 3; part++)
            for (long t = 0; t < GROUP; t++) lay(row + t * 32, part * d + c0, (const uint16_t *)runs[part == 1][t], count);
    }
    return bound(b, size, far, offs, 3 * KAPPA(d) * far, height, d);
}

/* A panel of LANES samples -> pairs of coordinates, and a question's sizes. */
static void tiles_of_samples(const real *panel, long d, int32_t *pairs, Question *q) {
    memset(pairs, 0, sizeof(int32_t) * tile_pairs(d) * LANES);
    for (long v = 0; v < VECTORS; v++) {
        vector size = {0}, away = {0}, small = {0};
        for (long c = 0; c < d; c++) {
            vector x = *(const vector *)(panel + c * LANES + v * WIDTH);
            bits first = BRIEF((bits)x), second = BRIEF((bits)(x - (vector)first));
            vector rest = x - (vector)first - (vector)second;
            size += x * x, away += rest * rest, small += (vector)second * (vector)second;
            for (long part = 0; part < 3; part++) {
                long at = part * d + c;
                bits *out = (bits *)(pairs + at / 2 * LANES + v * WIDTH), own = part == 2 ? second : first;
                *out |= at % 2 ? own : own >> 16;
            }
        }
        size = ROOT(size), small = ROOT(small);
        q->away[v] = 1.001f * ROOT(away) + 0x1.02p-8f * small + SHORT; /* |z2| <= 2^-8 |z| */
        q->size[v] = 1.001f * size + SHORT;
    }
}

/* The products of a block of samples and TOGETHER groups, of which g is the first: scores but for the heights. */
static void tile_scores(vector score[2 * DEEP][VECTORS], const int32_t *x, const int32_t *y, long g, long d) {
    long pairs = tile_pairs(d);
    const int32_t *a = y + g / 2 * DEEP * pairs, *b = a + DEEP * pairs;
    __asm__ volatile("" ::: "memory"); /* what was written must be seen: tile loads do not say that they read */
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
    for (long p = 0; p < pairs; p += DEEP, a += DEEP * DEEP, b += DEEP * DEEP, x += DEEP * LANES) {
        _tile_loadd(6, a, 64);
        _tile_loadd(7, x, 4 * LANES); _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(7, x + 16, 4 * LANES); _tile_dpbf16ps(1, 6, 7);
        _tile_loadd(7, x + 32, 4 * LANES); _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(6, b, 64); _tile_dpbf16ps(5, 6, 7);
        _tile_loadd(7, x + 16, 4 * LANES); _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(7, x, 4 * LANES); _tile_dpbf16ps(3, 6, 7);
    }
    _tile_stored(0, &score[0][0], 4 * LANES); _tile_stored(1, &score[0][1], 4 * LANES); _tile_stored(2, &score[0][2], 4 * LANES);
    _tile_stored(3, &score[DEEP][0], 4 * LANES); _tile_stored(4, &score[DEEP][1], 4 * LANES); _tile_stored(5, &score[DEEP][2], 4 * LANES);
}

/* The largest scores of groups g0..g1 for a block of samples; g0 begins two tiles. */
static void tile_tops(const int32_t *x, const int32_t *y, const real *h, long g0, long g1, long d, vector *top) {
    vector score[2 * DEEP][VECTORS];
    for (long g = g0; g < g1; g++, top += VECTORS) {
        if ((g - g0) % TOGETHER == 0) tile_scores(score, x, y, g, d);
        vector s[GROUP][VECTORS];
        for (long t = 0; t < GROUP; t++)
            for (long v = 0; v < VECTORS; v++) s[t][v] = score[(g - g0) % TOGETHER * GROUP + t][v] + h[g * GROUP + t];
        foremost(top, s);
    }
}
