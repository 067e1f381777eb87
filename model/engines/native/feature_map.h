/* Activations in blocks of SIMD_WIDTH channels: (blocks, rows, columns, SIMD_WIDTH), with a border of zeros.

   The border has one pixel above and on the left. Below and on the right, it rounds the size up to a multiple
   of 4 and has at least one more pixel, so that convolutions of size 3 and patches of 4 stay inside. */
#ifndef FEATURE_MAP_H
#define FEATURE_MAP_H

#include "vector.h"

struct feature_map {
    int channels, height, width; /* channels: a multiple of SIMD_WIDTH */
    long row, plane;             /* floats from row to row, from block to block */
    float *pixels;               /* of block 0, row 0, column 0: inside the border */
};

INLINE long feature_map_floats(int channels, int height, int width)
{
    return (long)channels * (round_up(height, 4) + 2) * (round_up(width, 4) + 2);
}

/* A feature map in `memory`, which must hold feature_map_floats. Its border is not zero yet. */
INLINE struct feature_map feature_map_in(float *memory, int channels, int height, int width)
{
    long row = (round_up(width, 4) + 2) * SIMD_WIDTH;
    long plane = row * (round_up(height, 4) + 2);
    return (struct feature_map){channels, height, width, row, plane, memory + row + SIMD_WIDTH};
}

INLINE float *pixel(const struct feature_map *map, int block, int y, int x)
{
    return map->pixels + block * map->plane + y * map->row + (long)x * SIMD_WIDTH;
}

INLINE void clear_border(const struct feature_map *map)
{
    long right = map->row - (map->width + 1) * SIMD_WIDTH;
    for (int block = 0; block < map->channels / SIMD_WIDTH; block++) {
        float *plane = pixel(map, block, -1, -1);
        float *end = plane + map->plane;
        float *below = pixel(map, block, map->height, -1);
        memset(plane, 0, map->row * sizeof *plane);
        memset(below, 0, (char *)end - (char *)below);
        for (int y = 0; y < map->height; y++) {
            memset(pixel(map, block, y, -1), 0, SIMD_WIDTH * sizeof *plane);
            memset(pixel(map, block, y, map->width), 0, right * sizeof *plane);
        }
    }
}

#endif
