/* Pairs of points: how far apart they are (neighbours.py), the forest that the shortest of them make (scale.py), and the cliques of
   those that are joined (cliques.py). */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 8

typedef double doubles __attribute__((vector_size(WIDTH * sizeof(double)), aligned(sizeof(double))));

/* |y_i - y_j| for e pairs of rows of d numbers, of either kind. The sums of both kinds have the same order. */
#define LENGTHS(name, real)                                                                                            \
    void name(long e, long d, const real *y, const int64_t *i, const int64_t *j, double *length) {                     \
        typedef real vector __attribute__((vector_size(WIDTH * sizeof(real)), aligned(sizeof(real))));                 \
        for (long p = 0; p < e; p++) {                                                                                 \
            const real *a = y + i[p] * d, *b = y + j[p] * d;                                                           \
            doubles sums = {0};                                                                                        \
            double sum = 0;                                                                                            \
            long c = 0;                                                                                                \
            for (; c + WIDTH <= d; c += WIDTH) {                                                                       \
                doubles step = __builtin_convertvector(*(const vector *)(a + c), doubles) -                            \
                               __builtin_convertvector(*(const vector *)(b + c), doubles);                             \
                sums += step * step;                                                                                   \
            }                                                                                                          \
            for (; c < d; c++) sum += ((double)a[c] - b[c]) * ((double)a[c] - b[c]);                                   \
            for (long l = 0; l < WIDTH; l++) sum += sums[l];                                                           \
            length[p] = sqrt(sum);                                                                                     \
        }                                                                                                              \
    }
LENGTHS(lengths_of_floats, float)
LENGTHS(lengths_of_doubles, double)

/* Which of e edges, in this order, join what no edge before them has joined (Kruskal, 1956). Returns how many, or -1 without memory. */
long forest(long m, long e, const int64_t *order, const int64_t *i, const int64_t *j, int64_t *kept) {
    long *parent = malloc(m * sizeof(long)), count = 0;
    if (!parent) return -1;
    for (long c = 0; c < m; c++) parent[c] = c;
    for (long p = 0; p < e && count < m - 1; p++) {
        long a = i[order[p]], b = j[order[p]];
        while (parent[a] != a) a = parent[a] = parent[parent[a]];
        while (parent[b] != b) b = parent[b] = parent[parent[b]];
        if (a != b) parent[a < b ? b : a] = a < b ? a : b, kept[count++] = order[p];
    }
    free(parent);
    return count;
}

/* Cliques of k vertices, s increasing rows in lexicographic order -> those of k + 1, likewise. The neighbours of v beyond v are
   later[start[v]], ..., later[start[v + 1] - 1], increasing. Rows that differ in their last vertex only lie together; two of them make
   a larger clique where these vertices are joined. Returns how many there are, or -1 without memory; out: NULL to have them counted. */
long extend(long m, long s, long k, const int64_t *rows, const int64_t *start, const int64_t *later, int64_t *out) {
    uint32_t *run = calloc(m, sizeof(uint32_t)), number = 0; /* in which run a vertex was last */
    long count = 0;
    if (!run) return -1;
    for (long first = 0, end; first < s; first = end) {
        number++;
        for (end = first; end < s && !memcmp(rows + end * k, rows + first * k, (k - 1) * sizeof *rows); end++) run[rows[end * k + k - 1]] = number;
        for (long r = first; r < end; r++) {
            const int64_t *row = rows + r * k, *p = later + start[row[k - 1]], *last = later + start[row[k - 1] + 1];
            if (!out)
                for (; p < last; p++) count += run[*p] == number;
            for (; p < last; p++)
                if (run[*p] == number) {
                    for (long c = 0; c < k; c++) *out++ = row[c];
                    *out++ = *p, count++;
                }
        }
    }
    free(run);
    return count;
}
