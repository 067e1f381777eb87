/* Feature maps in bfloat16. */
#ifndef BFLOAT16_FEATURE_MAP_H
#define BFLOAT16_FEATURE_MAP_H

#include "amx.h"

/* Blocks of 32 channels, (blocks, rows, columns, 32), with a border of one pixel of zeros. A register may
   read past a row's end, into the next one; those products are not stored. */
struct bfloat16_feature_map {
    int channels, height, width;
    long row, plane; /* in values */
    bfloat *pixels;
};

INLINE long bfloat16_feature_map_values(int channels, int height, int width)
{
    return (long)channels * (height + 2) * (width + 2) + 2L * AMX_ROWS * AMX_DEPTH;
}

INLINE struct bfloat16_feature_map bfloat16_feature_map_in(bfloat *memory, int channels, int height,
                                                           int width)
{
    long row = (width + 2L) * AMX_DEPTH, plane = row * (height + 2);
    return (struct bfloat16_feature_map){channels, height, width, row, plane, memory + row + AMX_DEPTH};
}

INLINE bfloat *bfloat16_pixel(const struct bfloat16_feature_map *map, int block, int y, int x)
{
    return map->pixels + block * map->plane + y * map->row + (long)x * AMX_DEPTH;
}

#endif
