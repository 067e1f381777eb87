#include "reference.h"

#include "cases.h"
#include "network.h"
#include "stem.h"

#include <math.h>

struct plain plain_zeros(int channels, int height, int width)
{
    long bytes = (long)channels * height * width * (long)sizeof(double);
    struct plain plain = {channels, height, width, allocate(bytes)};
    memset(plain.values, 0, bytes);
    return plain;
}

double *plain_at(const struct plain *plain, int channel, int y, int x)
{
    return plain->values + ((long)channel * plain->height + y) * plain->width + x;
}

struct plain plain_convolve(const struct plain *from, const float *kernel, const float *bias, int channels,
                            int size, int stride)
{
    struct plain to = plain_zeros(channels, from->height / stride, from->width / stride);
    for (int o = 0; o < channels; o++)
        for (int y = 0; y < to.height; y++)
            for (int x = 0; x < to.width; x++) {
                double sum = bias[o];
                for (int i = 0; i < from->channels; i++)
                    for (int dy = 0; dy < size; dy++)
                        for (int dx = 0; dx < size; dx++) {
                            int row = y * stride + dy - size / 2, column = x * stride + dx - size / 2;
                            if (row < 0 || column < 0 || row >= from->height || column >= from->width)
                                continue;
                            sum += *plain_at(from, i, row, column) *
                                   kernel[(((long)o * from->channels + i) * size + dy) * size + dx];
                        }
                *plain_at(&to, o, y, x) = sum;
            }
    return to;
}

void plain_finish(struct plain *sum, const struct plain *shortcut, int relu)
{
    for (long i = 0; i < (long)sum->channels * sum->height * sum->width; i++) {
        double value = sum->values[i] + (shortcut ? shortcut->values[i] : 0);
        sum->values[i] = relu && value < 0 ? 0 : value;
    }
}

static struct plain plain_pool(const struct plain *from)
{
    struct plain to = plain_zeros(from->channels, from->height / 2, from->width / 2);
    for (int c = 0; c < to.channels; c++)
        for (int y = 0; y < to.height; y++)
            for (int x = 0; x < to.width; x++)
                for (int dy = MAX(0, 2 * y - 1); dy <= 2 * y + 1; dy++)
                    for (int dx = MAX(0, 2 * x - 1); dx <= 2 * x + 1; dx++)
                        *plain_at(&to, c, y, x) = fmax(*plain_at(&to, c, y, x), *plain_at(from, c, dy, dx));
    return to;
}

struct plain plain_copy(const struct feature_map *map, int channels)
{
    struct plain plain = plain_zeros(channels, map->height, map->width);
    for (int c = 0; c < channels; c++)
        for (int y = 0; y < plain.height; y++)
            for (int x = 0; x < plain.width; x++)
                *plain_at(&plain, c, y, x) = pixel(map, c / SIMD_WIDTH, y, x)[c % SIMD_WIDTH];
    return plain;
}

double largest(const struct plain *plain)
{
    double value = 1e-30;
    for (long i = 0; i < (long)plain->channels * plain->height * plain->width; i++)
        value = fmax(value, fabs(plain->values[i]));
    return value;
}

void check_close(const struct plain *found, const struct plain *expected)
{
    double allowed = 2e-5 * largest(expected);
    for (long i = 0; i < (long)found->channels * found->height * found->width; i++)
        CHECK(fabs(found->values[i] - expected->values[i]) <= allowed, "value %ld is %g, expected %g", i,
              found->values[i], expected->values[i]);
}

void check_same(const struct plain *found, const struct plain *first)
{
    long bytes = (long)found->channels * found->height * found->width * (long)sizeof(double);
    CHECK(memcmp(found->values, first->values, bytes) == 0, "depends on the number of threads");
}

struct plain plain_canvas(const uint8_t *canvas, int height, int width, const float *levels)
{
    struct plain plain = plain_zeros(3, height, width);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                *plain_at(&plain, c, y, x) = levels[256 * c + canvas[3 * ((long)y * width + x) + c]];
    return plain;
}

struct plain plain_stem(const struct plain *canvas, const float *kernel, const float *bias)
{
    struct plain sums = plain_convolve(canvas, kernel, bias, channels_at(0), STEM_SIZE, 2);
    plain_finish(&sums, NULL, 1);
    struct plain result = plain_pool(&sums);
    free(sums.values);
    return result;
}
