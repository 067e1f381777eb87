/* What cases are made of: random numbers, memory, canvases, regions and pools of threads. */
#ifndef CASES_H
#define CASES_H

#include "feature_map.h"
#include "head.h"
#include "memory.h"
#include "thread_pool.h"

#include <stdio.h>
#include <stdlib.h>

#define TILE 32
#define POOLS 4
#define FIRST_HUGE_LEVEL 240 /* of red: from here on the network may overflow; no other canvas has them */

extern const int pool_sizes[POOLS];
extern struct thread_pool *pools[POOLS];
extern const char *property; /* which is checked now */
extern uint64_t seed;        /* of the cases to come */

#define CHECK(what, ...)                                                                                     \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            fprintf(stderr, "%s, SIMD width %d: ", property, SIMD_WIDTH);                                    \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Exactly as large as asked for, so that the sanitizer sees the end. */
void *allocate(long bytes);

int draw_between(int low, int high);
float *draw_floats(long count, float scale);
struct feature_map draw_feature_map(int channels, int height, int width);
float *memory_of(const struct feature_map *map);
uint8_t *draw_canvas(int height, int width);
struct region draw_region(int height, int width);

#endif
