/* The weighted graph of cells and facets (laplacian.py): edges i < j in increasing order, lists of their ends and weights; and what
   samples say of pairs of cells and of the length of a step (evidence.py). */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Sum over n samples of sigma_a sigma_b / delta for all pairs among each sample's k cells, where sigma_a sigma_b > faint, on top of
   e edges. The sums run in the order of the samples. out: room for e edges and all pairs. Returns how many edges there are, or -1
   where there is no memory. */
long gather(long m, long e, const int64_t *i, const int64_t *j, const double *w, long n, long k, const double *sigma,
            const int64_t *index, const double *delta, double faint, int64_t *out_i, int64_t *out_j, double *out_w) {
    long pairs = n * k * (k - 1) / 2, out = 0, old = 0;
    long *start = calloc(m + 2, sizeof(long)), *place = calloc(m, sizeof(long));
    int64_t *other = malloc((pairs + 1) * sizeof(int64_t));
    double *weight = malloc((pairs + 1) * sizeof(double));
    if (start && place && other && weight) {
        for (int fill = 0; fill < 2; fill++) { /* by the lower cell: count, then fill */
            for (long s = 0; s < n; s++)
                for (long a = 0; a < k; a++)
                    for (long b = a + 1; b < k; b++) {
                        double product = sigma[s * k + a] * sigma[s * k + b];
                        if (!(product > faint)) continue;
                        int64_t p = index[s * k + a], q = index[s * k + b], low = p < q ? p : q;
                        long at = start[low + 1 + !fill]++;
                        if (fill) other[at] = p < q ? q : p, weight[at] = product / delta[s];
                    }
            for (long c = 1; !fill && c < m + 2; c++) start[c] += start[c - 1];
        }
        for (long c = 0; c < m; c++) {
            long first = out; /* place[q] - 1 is where edge (c, q) is, if that is not before `first` */
            for (; old < e && i[old] == c; old++, out++) out_i[out] = c, out_j[out] = j[old], out_w[out] = w[old], place[j[old]] = out + 1;
            long sorted = out;
            for (long at = start[c]; at < start[c + 1]; at++) {
                int64_t q = other[at];
                if (place[q] > first) out_w[place[q] - 1] += weight[at];
                else out_i[out] = c, out_j[out] = q, out_w[out] = weight[at], place[q] = ++out;
            }
            for (long r = sorted; r < out; r++) { /* insert the new ones */
                int64_t q = out_j[r];
                double v = out_w[r];
                long t = r;
                for (; t > first && out_j[t - 1] > q; t--) out_j[t] = out_j[t - 1], out_w[t] = out_w[t - 1];
                out_j[t] = q, out_w[t] = v;
            }
        }
    } else out = -1;
    free(start), free(place), free(other), free(weight);
    return out;
}

/* (L + diag(ridge)) s = b for the graph's Laplacian L, by conjugate gradients with its diagonal (Hestenes and Stiefel, 1952), until
   |b - (L + diag(ridge)) s| <= rtol |b|, or for `most` steps. s: zeros. Returns a negative number where there is no memory. */
int solve(long m, long e, const int64_t *i, const int64_t *j, const double *w, const double *ridge, const double *b, double rtol,
          long most, double *s) {
    double *r = malloc(4 * m * sizeof(double)), *p = r + m, *q = p + m, *diagonal = q + m, size = 0, stop, rz = 0;
    if (!r) return -1;
    for (long c = 0; c < m; c++) diagonal[c] = ridge[c];
    for (long t = 0; t < e; t++) diagonal[i[t]] += w[t], diagonal[j[t]] += w[t];
    for (long c = 0; c < m; c++) {
        r[c] = b[c], p[c] = b[c] / diagonal[c];
        size += r[c] * r[c], rz += r[c] * p[c];
    }
    stop = rtol * rtol * size;
    for (long turn = 0; turn < most && size > stop; turn++) {
        double pq = 0, before = rz, step;
        for (long c = 0; c < m; c++) q[c] = diagonal[c] * p[c];
        for (long t = 0; t < e;) {
            long c = i[t];
            double sum = 0, own = p[c];
            for (; t < e && i[t] == c; t++) sum += w[t] * p[j[t]], q[j[t]] -= w[t] * own;
            q[c] -= sum;
        }
        for (long c = 0; c < m; c++) pq += p[c] * q[c];
        step = rz / pq, rz = size = 0;
        for (long c = 0; c < m; c++) {
            s[c] += step * p[c], r[c] -= step * q[c];
            size += r[c] * r[c], rz += r[c] * r[c] / diagonal[c];
        }
        for (long c = 0; c < m; c++) p[c] = r[c] / diagonal[c] + rz / before * p[c];
    }
    free(r);
    return 0;
}

/* How far each cell moves against its neighbours, the mean over its facets by weight; as far as it moves where it has none. */
int drift(long m, long e, const int64_t *i, const int64_t *j, const double *w, const double *step, double *moved) {
    double *total = calloc(m, sizeof(double));
    if (!total) return -1;
    memset(moved, 0, m * sizeof(double));
    for (long t = 0; t < e; t++) {
        double pull = w[t] * fabs(step[i[t]] - step[j[t]]);
        moved[i[t]] += pull, moved[j[t]] += pull, total[i[t]] += w[t], total[j[t]] += w[t];
    }
    for (long c = 0; c < m; c++) moved[c] = total[c] > 0 ? moved[c] / fmax(total[c], 1e-300) : fabs(step[c]);
    free(total);
    return 0;
}

/* For each of n samples the mean of the values of those with the same two cells, in either order, and of one more, the usual one. */
int pair_means(long n, const int64_t *first, const int64_t *second, const double *value, const double *usual, double *mean) {
    typedef struct { uint64_t pair; double sum; long count; } Pair;
    int bits = 1;
    while (1L << bits < 2 * n) bits++;
    Pair *pairs = calloc(1L << bits, sizeof(Pair)); /* an open table; counts of zero are free places */
    long *place = malloc((n + 1) * sizeof(long));
    if (pairs && place) {
        for (long s = 0; s < n; s++) {
            uint64_t low = first[s] < second[s] ? first[s] : second[s], pair = low << 32 | (uint64_t)(first[s] + second[s] - low);
            long at = pair * 0x9e3779b97f4a7c15 >> (64 - bits);
            while (pairs[at].count && pairs[at].pair != pair) at = at + 1 & (1L << bits) - 1;
            pairs[at].pair = pair, pairs[at].sum += value[s], pairs[at].count++, place[s] = at;
        }
        for (long s = 0; s < n; s++) mean[s] = (pairs[place[s]].sum + usual[s]) / (pairs[place[s]].count + 1);
    }
    int failed = !pairs || !place;
    free(pairs), free(place);
    return -failed;
}

/* The median and the 99 % quantile of n values that are not negative: of the values as they are, then by weight. */
int quantiles(long n, const double *value, const double *weight, double found[4]) {
    typedef struct { uint32_t key; int32_t index; } Item;
    Item *items = malloc(2 * n * sizeof(Item)), *spare = items + n, *other;
    if (!items) return -1;
    for (long s = 0; s < n; s++) {
        float brief = value[s]; /* which is enough to sort by, and sorts like its bits */
        memcpy(&items[s].key, &brief, sizeof brief), items[s].index = s;
    }
    Item *sorted = items;
    for (int shift = 0; shift < 33; shift += 11) {
        long start[2049] = {0};
        for (long s = 0; s < n; s++) start[(sorted[s].key >> shift & 2047) + 1]++;
        for (long b = 0; b < 2048; b++) start[b + 1] += start[b];
        for (long s = 0; s < n; s++) spare[start[sorted[s].key >> shift & 2047]++] = sorted[s];
        other = sorted, sorted = spare, spare = other;
    }
    for (int weighed = 0; weighed < 2; weighed++) {
        double all = 0, sum = 0, *out = found + 2 * weighed;
        for (long s = 0; s < n; s++) all += weighed ? weight[sorted[s].index] : 1;
        out[0] = out[1] = value[sorted[n - 1].index];
        for (long s = 0, passed = 0; s < n && passed < 2; s++) {
            sum += weighed ? weight[sorted[s].index] : 1;
            while (passed < 2 && sum >= (passed ? 0.99 : 0.5) * all) out[passed++] = value[sorted[s].index];
        }
    }
    free(items);
    return 0;
}
