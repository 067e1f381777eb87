/* The network up to its coarse logits in bfloat16, on processors with AMX: products of bfloat16 summed in
   float32, activations kept in bfloat16. Not exact, and several times as fast. Knows nothing of masks. */
#ifndef BFLOAT16_H
#define BFLOAT16_H

#include "picture.h"
#include "team.h"

struct bfloat16_network;

/* Whether processor and system have what it takes. */
int bfloat16_is_supported(void);

/* `tensors` and `levels` as for engine_start. NULL without memory. */
struct bfloat16_network *bfloat16_pack(const float *const *tensors, const float *levels, int classes);
void bfloat16_free(struct bfloat16_network *network);

/* Floats of memory for the pictures of a canvas, and what each worker needs besides. */
long bfloat16_floats(int height, int width);
long bfloat16_scratch(int width);

/* Makes the borders of the pictures in `memory` zero: once for a size. */
void bfloat16_clear_borders(float *memory, int height, int width);

/* A canvas (height, width, 3) to its coarse logits. */
void bfloat16_run(const struct bfloat16_network *network, struct team *team, const uint8_t *canvas,
                  int height, int width, float *memory, const struct picture *coarse, float *scratch,
                  long scratch_floats);

#endif
