/* The weighted graph of cells and facets (laplacian.py): edges i < j in increasing order, lists of their ends and weights; and what
   samples say of pairs of cells and of the length of a step (evidence.py). */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Adds the weights of every cell's edges to sum. The edges of a lower cell follow each other: their sum need not wait for memory. */
static void add_by_cell(long e, const int64_t *i, const int64_t *j, const double *w, double *sum) {
    for (long t = 0; t < e;) {
        int64_t c = i[t];
        double own = 0;
        for (; t < e && i[t] == c; t++) own += w[t], sum[j[t]] += w[t];
        sum[c] += own;
    }
}

/* In place, at most `most` of e > most edges: those that matter most to the lighter of their cells, see `strongest` in laplacian.py.
   Returns how many, or -1 where there is no memory. */
static long strongest(long m, long e, int64_t *i, int64_t *j, double *w, long most) {
    double *share = calloc(m, sizeof(double));
    uint32_t *matter = malloc(e * sizeof(uint32_t)), last = 0; /* the largest that is not kept, from its first bits to all */
    long kept = share && matter ? 0 : -1, left = most;
    if (!kept) {
        add_by_cell(e, i, j, w, share);
        for (long c = 0; c < m; c++) share[c] = 1 / share[c];
        for (long t = 0; t < e; t++) { /* a float is enough to compare by, and compares like its bits, of which 30 count below 2 */
            float brief = fmin(w[t] * (share[i[t]] + share[j[t]]), 1.99);
            memcpy(matter + t, &brief, sizeof brief);
        }
        for (int shift = 20; shift >= 0; shift -= 10) {
            long count[2][1024] = {0}, b = 1023;
            for (long t = 0; t < e; t++) if (matter[t] >> shift + 10 == last) count[t & 1][matter[t] >> shift & 1023]++;
            for (; count[0][b] + count[1][b] <= left; b--) left -= count[0][b] + count[1][b];
            last = last << 10 | b;
        }
        for (long t = 0; t < e; t++) if (matter[t] > last) i[kept] = i[t], j[kept] = j[t], w[kept++] = w[t];
    }
    free(share), free(matter);
    return kept;
}

/* Sum over n samples of sigma_a sigma_b / delta for all pairs among each sample's k cells, where sigma_a sigma_b > faint, on top of
   e edges; of the edges that makes, at most the `most` strongest. The sums run in the order of the samples. out: room for e edges
   and all pairs. Returns how many edges there are, or -1 where there is no memory. */
long gather(long m, long e, const int64_t *i, const int64_t *j, const double *w, long n, long k, const double *sigma,
            const int64_t *index, const double *delta, double faint, long most, int64_t *out_i, int64_t *out_j, double *out_w) {
    typedef struct { int32_t low, high; double weight; } Pair; /* short: there are many of them */
    long room = n * k * (k - 1) / 2 + 1, pairs = 0, out = 0, old = 0;
    long *start = calloc(m + 1, sizeof(long)), *place = calloc(m, sizeof(long));
    Pair *found = malloc(2 * room * sizeof(Pair)), *pair = found + room; /* as they come, and by the lower cell */
    if (start && place && found) {
        for (long s = 0; s < n; s++)
            for (long a = 0; a < k; a++)
                for (long b = a + 1; b < k; b++) { /* written in any case: whether to keep it is hard to foresee */
                    double product = sigma[s * k + a] * sigma[s * k + b];
                    int64_t p = index[s * k + a], q = index[s * k + b];
                    found[pairs] = (Pair){p < q ? p : q, p < q ? q : p, product / delta[s]};
                    start[found[pairs].low + 1] += product > faint, pairs += product > faint;
                }
        for (long c = 0; c < m; c++) start[c + 1] += start[c];
        for (long t = 0; t < pairs; t++) pair[start[found[t].low]++] = found[t];
        for (long c = 0, at = 0; c < m; c++) {
            long first = out; /* place[q] - 1 is where edge (c, q) is, if that is not before `first` */
            for (; old < e && i[old] == c; old++, out++) out_i[out] = c, out_j[out] = j[old], out_w[out] = w[old], place[j[old]] = out + 1;
            long sorted = out;
            for (; at < start[c]; at++) {
                int64_t q = pair[at].high;
                if (place[q] > first) out_w[place[q] - 1] += pair[at].weight;
                else out_i[out] = c, out_j[out] = q, out_w[out] = pair[at].weight, place[q] = ++out;
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
    free(start), free(place), free(found);
    return out > most ? strongest(m, out, out_i, out_j, out_w, most) : out;
}

/* (L + diag(ridge)) s = b for the graph's Laplacian L, by conjugate gradients with its diagonal (Hestenes and Stiefel, 1952), until
   |b - (L + diag(ridge)) s| <= rtol |b|, or for `most` steps. s: zeros. Returns a negative number where there is no memory. */
int solve(long m, long e, const int64_t *i, const int64_t *j, const double *w, const double *ridge, const double *b, double rtol,
          long most, double *s) {
    double *r = malloc(4 * m * sizeof(double)), *p = r + m, *q = p + m, *diagonal = q + m, size = 0, stop, rz = 0;
    if (!r) return -1;
    for (long c = 0; c < m; c++) diagonal[c] = ridge[c];
    add_by_cell(e, i, j, w, diagonal);
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

/* w_ij v_i v_j for each of e edges. */
void scale(long e, const int64_t *i, const int64_t *j, const double *w, const double *v, double *scaled) {
    for (long t = 0; t < e; t++) scaled[t] = w[t] * v[i[t]] * v[j[t]];
}

/* How far each cell moves against its neighbours, the mean over its facets by weight; as far as it moves where it has none. */
int drift(long m, long e, const int64_t *i, const int64_t *j, const double *w, const double *step, double *moved) {
    double *total = calloc(m, sizeof(double)), *pull = malloc((e + 1) * sizeof(double));
    if (total && pull) {
        for (long t = 0; t < e; t++) pull[t] = w[t] * fabs(step[i[t]] - step[j[t]]);
        memset(moved, 0, m * sizeof(double));
        add_by_cell(e, i, j, w, total), add_by_cell(e, i, j, pull, moved);
        for (long c = 0; c < m; c++) moved[c] = total[c] > 0 ? moved[c] / fmax(total[c], 1e-300) : fabs(step[c]);
    }
    int failed = !total || !pull;
    free(total), free(pull);
    return -failed;
}

/* For each of n samples the mean of the values of those with the same first two cells, in either order, and of one more: the lesser
   of what is usual in the two. */
int pair_means(long n, long k, const int64_t *index, const double *value, const double *usual, double *mean) {
    typedef struct { uint64_t pair; double sum; long count; } Pair;
    int bits = 1;
    while (1L << bits < 2 * n) bits++;
    Pair *pairs = calloc(1L << bits, sizeof(Pair)); /* an open table; counts of zero are free places */
    long *place = malloc((n + 1) * sizeof(long));
    if (pairs && place) {
        for (long s = 0; s < n; s++) {
            int64_t p = index[s * k], q = index[s * k + 1];
            uint64_t pair = p < q ? (uint64_t)p << 32 | q : (uint64_t)q << 32 | p;
            long at = pair * 0x9e3779b97f4a7c15 >> (64 - bits);
            while (pairs[at].count && pairs[at].pair != pair) at = at + 1 & (1L << bits) - 1;
            pairs[at].pair = pair, pairs[at].sum += value[s], pairs[at].count++, place[s] = at;
        }
        for (long s = 0; s < n; s++) {
            double a = usual[index[s * k]], b = usual[index[s * k + 1]];
            mean[s] = (pairs[place[s]].sum + (a < b ? a : b)) / (pairs[place[s]].count + 1);
        }
    }
    int failed = !pairs || !place;
    free(pairs), free(place);
    return -failed;
}

/* Add up, for every cell, of_soft (its soft hit) + of_hit [its hit] over n samples, and the squares of that. */
void add_up(long n, long k, const int64_t *index, const double *soft, const double *of_soft, const double *of_hit, double *sum,
            double *square) {
    for (long s = 0; s < n; s++)
        for (long a = 0; a < k; a++) {
            int64_t c = index[s * k + a];
            double t = of_soft[c] * soft[s * k + a] + (a ? 0 : of_hit[c]);
            sum[c] += t, square[c] += t * t;
        }
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
