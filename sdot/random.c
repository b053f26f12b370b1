/* Many independent numbers, 16 side by side: xoshiro256++ (Blackman and Vigna, 2021) in eight lanes, normal ones by Box and Muller
   (1958). Every stretch of numbers has a stream of its own, so threads may share out the work and the numbers stay the same. */

#include <stdint.h>
#include <string.h>

#define STRETCH 32768 /* numbers of one stream, as in _random.py */
#define LANES 8
#define MANY (2 * LANES)

typedef uint64_t word __attribute__((vector_size(8 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * MANY)));
typedef int32_t whole __attribute__((vector_size(4 * MANY)));
typedef float real __attribute__((vector_size(4 * MANY)));

static uint64_t split_mix(uint64_t *x) { /* Steele, Lea and Flood, 2014 */
    uint64_t z = *x += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static void seed(word state[4], uint64_t key, uint64_t stretch) {
    uint64_t x = key;
    x = split_mix(&x) + stretch;
    for (int s = 0; s < 4; s++)
        for (int l = 0; l < LANES; l++) state[s][l] = split_mix(&x);
}

#define TURN(x, k) ((x) << (k) | (x) >> (64 - (k)))
static inline bits next(word s[4]) {
    word sum = s[0] + s[3], out = TURN(sum, 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t, s[3] = TURN(s[3], 45);
    return (bits)out;
}

/* log u for 0 < u <= 1 and sine and cosine up to pi / 4: the polynomials of Cephes (Moshier), right to float's last digits. */
static inline real logarithm(real u) {
    whole exponent = ((whole)u - 0x3f3504f3) >> 23;
    real e = __builtin_convertvector(exponent, real), f = (real)((whole)u - (exponent << 23)) - 1, z = f * f;
    real p = 7.0376836292e-2f * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f, p = p * f - 1.2420140846e-1f, p = p * f + 1.4249322787e-1f, p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f, p = p * f - 2.4999993993e-1f, p = p * f + 3.3333331174e-1f;
    return f * z * p - 2.12194440e-4f * e - 0.5f * z + f + 0.693359375f * e;
}
static inline real sine(real a) {
    real z = a * a;
    return ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * a + a;
}
static inline real cosine(real a) {
    real z = a * a;
    return ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1;
}
static inline real root(real x) {
    float parts[MANY];
    x = (real)((whole)x & (x > 0));
    memcpy(parts, &x, sizeof x);
    for (int l = 0; l < MANY; l++) parts[l] = __builtin_sqrtf(parts[l]);
    memcpy(&x, parts, sizeof x);
    return x;
}

/* 2 MANY normal numbers, of up to 6.7 in size. */
static inline void normals(word state[4], real out[2]) {
    bits radius = next(state), angle = next(state);
    real r = root(-2 * logarithm(__builtin_convertvector(radius, real) * 0x1p-32f + 0x1p-33f));
    bits quarter = (angle + (1u << 29)) >> 30;
    real a = __builtin_convertvector((whole)(angle - (quarter << 30)), real) * 1.46291807926715968e-9f; /* pi / 2^31 */
    bits s = (bits)sine(a), c = (bits)cosine(a), odd = -(quarter & 1);
    out[0] = r * (real)(((odd & s) | (~odd & c)) ^ ((quarter + 1) & 2) << 30);
    out[1] = r * (real)(((odd & c) | (~odd & s)) ^ (quarter & 2) << 30);
}

/* 2 MANY numbers in [0, 1), multiples of 2^-24. */
static inline void uniforms(word state[4], real out[2]) {
    for (int i = 0; i < 2; i++) out[i] = __builtin_convertvector((whole)(next(state) >> 8), real) * 0x1p-24f;
}

/* The stretches from `first` on of the numbers that belong to a key, `count` numbers. */
#define FILL(name, make)                                                                                   \
    void name(uint64_t key, long first, long count, float *out) {                                          \
        for (; count > 0; first++, count -= STRETCH) {                                                     \
            word state[4];                                                                                 \
            real made[2];                                                                                  \
            seed(state, key, first);                                                                       \
            for (long left = count < STRETCH ? count : STRETCH, some; left > 0; left -= some, out += some) { \
                make(state, made);                                                                         \
                some = left < 2 * MANY ? left : 2 * MANY;                                                  \
                if (some == 2 * MANY) memcpy(out, made, sizeof made);                                      \
                else memcpy(out, made, some * sizeof *out);                                                \
            }                                                                                              \
        }                                                                                                  \
    }
FILL(normal, normals)
FILL(uniform, uniforms)
