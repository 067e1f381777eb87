/* The stem (see stem.h) in bfloat16 on AMX. Only for processors with AVX-512. */
#ifndef BFLOAT16_STEM_H
#define BFLOAT16_STEM_H

#include "stem.h"
#include "bfloat16_feature_map.h"

#define STEM_CHANNELS 64

struct bfloat16_stem {
    bfloat levels[3][256];
    bfloat *weights; /* (7 rows, 4 registers, 16 pairs, 16 outputs, 2) */
    float *bias;
};

int bfloat16_stem_pack(struct bfloat16_stem *stem, const float *kernel, const float *bias,
                       const float *levels);
void bfloat16_stem_free(struct bfloat16_stem *stem);

/* Like `stem_scratch` and `stem_apply`. */
long bfloat16_stem_scratch(int width);
void bfloat16_stem_apply(struct thread_pool *pool, const struct bfloat16_stem *stem, const uint8_t *canvas,
                         const struct bfloat16_feature_map *to, float *scratch, long scratch_floats);

#endif
