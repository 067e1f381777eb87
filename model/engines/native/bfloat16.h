/* The network up to its coarse logits in bfloat16, on processors with AMX. Products and feature maps are in
   bfloat16, sums in float32. It is less exact than float32 and several times as fast. */
#ifndef BFLOAT16_H
#define BFLOAT16_H

#include "feature_map.h"
#include "network.h"
#include "thread_pool.h"

struct bfloat16_network;

/* Whether the processor and the kernel support AMX. */
int bfloat16_is_supported(void);

/* `tensors`, `levels` and `skips` are those of engine_start. Returns NULL without memory. */
struct bfloat16_network *bfloat16_pack(const float *const *tensors, const float *levels, int classes,
                                       int skips);
void bfloat16_free(struct bfloat16_network *network);

/* The memory for the feature maps of a canvas, and the scratch memory of each thread, in floats. */
long bfloat16_floats(int height, int width);
long bfloat16_scratch(int width);

/* Sets the borders of the feature maps in `memory` to zero. To be called once for each size of canvas. */
void bfloat16_clear_borders(float *memory, int height, int width);

/* Turns a canvas (height, width, 3) into `logits`, a feature map for each classifier, the coarsest first. */
void bfloat16_run(const struct bfloat16_network *network, struct thread_pool *pool, const uint8_t *canvas,
                  int height, int width, float *memory, const struct feature_map *logits, float *scratch,
                  long scratch_floats);

#endif
