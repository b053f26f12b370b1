/* Pairs of points: how far apart they are (neighbours.py), and the forest that the shortest of them make (scale.py). */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

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
