/* Activations in blocks of LANES channels: (blocks, rows, columns, LANES), with a border of zeros.

   The border is one pixel above and on the left, and below and on the right at least one more than
   rounding up to multiples of 4 takes, so that convolutions of size 3 and tiles of 4 read no further. */
#ifndef PICTURE_H
#define PICTURE_H

#include "vector.h"

struct picture {
    int channels, height, width; /* channels: a multiple of LANES */
    long row, plane;             /* floats from row to row, from block to block */
    float *pixels;               /* of block 0, row 0, column 0: inside the border */
};

INLINE long picture_floats(int channels, int height, int width)
{
    return (long)channels * (round_up(height, 4) + 2) * (round_up(width, 4) + 2);
}

/* A picture in `memory`, which must hold picture_floats; its border is not zero yet. */
INLINE struct picture picture_in(float *memory, int channels, int height, int width)
{
    long row = (round_up(width, 4) + 2) * LANES;
    long plane = row * (round_up(height, 4) + 2);
    return (struct picture){channels, height, width, row, plane, memory + row + LANES};
}

INLINE float *pixel(const struct picture *picture, int block, int y, int x)
{
    return picture->pixels + block * picture->plane + y * picture->row + (long)x * LANES;
}

INLINE void clear_border(const struct picture *picture)
{
    long right = picture->row - (picture->width + 1) * LANES;
    for (int block = 0; block < picture->channels / LANES; block++) {
        float *plane = pixel(picture, block, -1, -1);
        float *end = plane + picture->plane;
        float *below = pixel(picture, block, picture->height, -1);
        memset(plane, 0, picture->row * sizeof *plane);
        memset(below, 0, (char *)end - (char *)below);
        for (int y = 0; y < picture->height; y++) {
            memset(pixel(picture, block, y, -1), 0, LANES * sizeof *plane);
            memset(pixel(picture, block, y, picture->width), 0, right * sizeof *plane);
        }
    }
}

#endif
