/* The network up to its coarse logits, in float32. */
#ifndef FLOAT32_H
#define FLOAT32_H

#include "feature_map.h"
#include "network.h"
#include "thread_pool.h"

struct float32_network;

/* `tensors`, `levels` and `skips` are those of engine_start. Returns NULL without memory. */
struct float32_network *float32_pack(const float *const *tensors, const float *levels, int classes,
                                     int skips);
void float32_free(struct float32_network *network);

/* The memory for the feature maps of a canvas, and the scratch memory of each thread, in floats. */
long float32_floats(int height, int width);
long float32_scratch(const struct float32_network *network, int height, int width, int threads);

/* Sets the borders of the feature maps in `memory` to zero. To be called once for each size of canvas. */
void float32_clear_borders(float *memory, int height, int width);

/* Turns a canvas (height, width, 3) into `logits`, a feature map for each classifier, the coarsest first. */
void float32_run(const struct float32_network *network, struct thread_pool *pool, const uint8_t *canvas,
                 int height, int width, float *memory, const struct feature_map *logits, float *scratch,
                 long scratch_floats);

#endif
