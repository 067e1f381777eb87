/* The plain reference: arrays (channels, height, width) of double, and loops that anybody can read. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "feature_map.h"

struct plain {
    int channels, height, width;
    double *values;
};

struct plain plain_zeros(int channels, int height, int width);
double *plain_at(const struct plain *plain, int channel, int y, int x);

struct plain plain_convolve(const struct plain *from, const float *kernel, const float *bias, int channels,
                            int size, int stride);
void plain_finish(struct plain *sum, const struct plain *shortcut, int relu);
struct plain plain_copy(const struct feature_map *map, int channels);
struct plain plain_canvas(const uint8_t *canvas, int height, int width, const float *levels);
struct plain plain_stem(const struct plain *canvas, const float *kernel, const float *bias);

double largest(const struct plain *plain);
void check_close(const struct plain *found, const struct plain *expected);
void check_same(const struct plain *found, const struct plain *first);

#endif
