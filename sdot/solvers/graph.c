/* The weighted graph of cells and facets (laplacian.py): edges i < j in increasing order, lists of their ends and weights. */

#include <stdint.h>
#include <stdlib.h>

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
   |b - (L + diag(ridge)) s| <= rtol |b|, or for `most` steps. s: zeros. Returns nonzero where there is no memory. */
int solve(long m, long e, const int64_t *i, const int64_t *j, const double *w, const double *ridge, const double *b, double rtol,
          long most, double *s) {
    double *r = malloc(4 * m * sizeof(double)), *p = r + m, *q = p + m, *diagonal = q + m, size = 0, stop, rz = 0;
    if (!r) return 1;
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
