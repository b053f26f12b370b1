/* The rules of blending.py, one sample after the other: its star and its simplex stay in registers and in the nearest cache.

   stars.py compiles this once for float and once for double. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if DOUBLE
typedef double real;
#else
typedef float real;
#endif
#define WIDTH 8
#define MOST 16 /* as in barycentric.py */

typedef real vector __attribute__((vector_size(WIDTH * sizeof(real)), aligned(sizeof(real))));
typedef double doubles __attribute__((vector_size(WIDTH * sizeof(double)), aligned(sizeof(double))));

/* <y - o, x> */
static real along(const real *y, const real *o, const real *x, long d) {
    vector sums[2] = {{0}};
    real sum = 0;
    long c = 0;
    for (; c + 2 * WIDTH <= d; c += 2 * WIDTH)
        for (long v = 0; v < 2; v++) {
            long at = c + v * WIDTH;
            sums[v] += (*(const vector *)(y + at) - *(const vector *)(o + at)) * *(const vector *)(x + at);
        }
    for (; c < d; c++) sum += (y[c] - o[c]) * x[c];
    sums[0] += sums[1];
    for (long l = 0; l < WIDTH; l++) sum += sums[0][l];
    return sum;
}

/* Of every sample's star (the cell itself, then the others) the k targets with the highest scores, the own one first, and their scores
   less the own one. At equal scores the earlier one comes first. Stars with fewer are filled up with the cell at -inf. */
void foremost(long n, long d, const real *x, const int64_t *cell, long width, const int64_t *star, const int64_t *size, const real *y,
              const double *h, long k, int64_t *vertex, real *score) {
    for (long i = 0; i < n; i++, x += d, vertex += k, score += k) {
        int64_t own = cell[i];
        const int64_t *others = star + own * width;
        vertex[0] = own, score[0] = 0;
        for (long r = 1; r < k; r++) vertex[r] = own, score[r] = -INFINITY;
        for (long j = 1; j < size[own]; j++) {
            real s = along(y + others[j] * d, y + own * d, x, d) + (real)(h[others[j]] - h[own]);
            long r = k - 1;
            if (k < 2 || !(s > score[r])) continue;
            for (; r > 1 && s > score[r - 1]; r--) score[r] = score[r - 1], vertex[r] = vertex[r - 1];
            score[r] = s, vertex[r] = others[j];
        }
    }
}

/* Change w to the minimum of v' A v - 2 b' v over v with sum 1 that vanish outside the `count` places of `used`, in double: as
   `_affine_minimum` of barycentric.py. */
static void affine_minimum(double A[MOST][MOST], const double *slope, const double *w, const long *used, long count, double *v) {
    double system[MOST][MOST + 2], level = 0, largest = 0, sum = 0, constant = 0;
    for (long p = 0; p < count; p++) {
        level += slope[used[p]] * w[used[p]];
        largest = fmax(largest, A[used[p]][used[p]]);
    }
    if (largest == 0) largest = 1;
    for (long p = 0; p < count; p++) {
        for (long q = 0; q < count; q++) system[p][q] = A[used[p]][used[q]] + largest;
        system[p][count] = level - slope[used[p]], system[p][count + 1] = 1;
    }
    for (long j = 0; j < count; j++)
        for (long p = 0; p < count; p++) {
            double factor = p == j ? 0 : system[p][j] / system[j][j];
            for (long q = j + 1; q < count + 2; q++) system[p][q] -= factor * system[j][q];
        }
    for (long p = 0; p < count; p++) {
        for (long q = count; q < count + 2; q++) system[p][q] /= system[p][p];
        sum += system[p][count], constant += system[p][count + 1];
    }
    for (long p = 0; p < count; p++) v[used[p]] = w[used[p]] + system[p][count] - sum / constant * system[p][count + 1];
}

/* The weights of the nearest point to 0 of a hull whose points have the inner products A, less b: P. Wolfe, 1976. */
static void nearest(double A[MOST][MOST], const double *b, long k, double *w) {
    double slope[MOST], v[MOST], scale = 0, size = 0;
    long used[MOST] = {0}, count = 1, blocked = 0;
    for (long p = 0; p < k; p++) w[p] = p == 0, scale = fmax(scale, A[p][p]), size = fmax(size, fabs(b[p]));
    for (long turn = 0; turn < 8 * k; turn++) {
        double lead = INFINITY, level = 0, length = INFINITY;
        long enter = -1, leave = -1;
        for (long p = 0; p < k; p++) {
            slope[p] = -b[p];
            for (long q = 0; q < count; q++) slope[p] += A[p][used[q]] * w[used[q]];
            level += slope[p] * w[p];
        }
        if (!blocked) {
            for (long p = 0; p < k; p++) {
                long inside = 0;
                for (long q = 0; q < count; q++) inside |= used[q] == p;
                if (!inside && slope[p] < lead) lead = slope[p], enter = p;
            }
            if (!(lead < level - 64 * DBL_EPSILON * (scale + size))) return;
            used[count++] = enter;
        }
        affine_minimum(A, slope, w, used, count, v);
        for (long q = 0; q < count; q++) {
            double before = w[used[q]], after = v[used[q]];
            if (after <= 0 && before / fmax(before - after, DBL_MIN) < length) length = before / fmax(before - after, DBL_MIN), leave = q;
        }
        blocked = leave >= 0;
        for (long q = 0; q < count; q++) {
            double *own = w + used[q];
            *own = blocked ? fmax(*own + fmin(length, 1) * (v[used[q]] - *own), 0) : v[used[q]];
        }
        if (blocked) {
            w[used[leave]] = 0, count--;
            memmove(used + leave, used + leave + 1, (count - leave) * sizeof *used);
        }
    }
}

#define CHUNK 64 /* coordinates at once */

static double product(const double *a, const double *b) {
    doubles sums[2] = {{0}};
    double sum = 0;
    for (long c = 0; c < CHUNK; c += 2 * WIDTH)
        for (long v = 0; v < 2; v++) sums[v] += *(const doubles *)(a + c + v * WIDTH) * *(const doubles *)(b + c + v * WIDTH);
    sums[0] += sums[1];
    for (long l = 0; l < WIDTH; l++) sum += sums[0][l];
    return sum;
}

/* For every sample the weights of the nearest point to it in the hull of the points of its vertices, of which only the first ones are
   present. */
void project(long n, long d, const real *x, long k, const int64_t *vertex, const char *present, const real *points, double *weight) {
    double edge[MOST + 1][CHUNK]; /* from the first point: to itself (which stays zero), the others, x */
    memset(edge, 0, sizeof edge);
    for (long i = 0; i < n; i++, x += d, vertex += k, present += k, weight += k) {
        double A[MOST][MOST] = {{0}}, b[MOST] = {0};
        const real *first = points + vertex[0] * d;
        long count = 1;
        while (count < k && present[count]) count++;
        for (long c0 = 0; c0 < d; c0 += CHUNK) {
            long some = d - c0 < CHUNK ? d - c0 : CHUNK;
            for (long p = 1; p <= count; p++) {
                const real *end = (p < count ? points + vertex[p] * d : x) + c0;
                for (long c = 0; c < some; c++) edge[p][c] = (double)end[c] - first[c0 + c];
                for (long c = some; c < CHUNK && d > CHUNK; c++) edge[p][c] = 0;
            }
            for (long p = 1; p < count; p++) {
                for (long q = 1; q <= p; q++) A[q][p] = A[p][q] += product(edge[p], edge[q]);
                b[p] += product(edge[p], edge[count]);
            }
        }
        nearest(A, b, count, weight);
        for (long p = count; p < k; p++) weight[p] = 0;
    }
}
